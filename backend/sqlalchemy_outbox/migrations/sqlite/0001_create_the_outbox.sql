-- 0001 Create the outbox's tables.
-- Lock: none that anyone could notice, every table is new. Duration: milliseconds.
-- Known by: {name}_waits.look_at

-- up
CREATE TABLE {schema}{name} (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    subject TEXT NOT NULL,
    payload TEXT NOT NULL,
    created_at TEXT NOT NULL,
    available_at TEXT NOT NULL,
    claim_token TEXT,
    processed_at TEXT,
    failed_at TEXT,
    attempt_count INTEGER DEFAULT '0' NOT NULL,
    last_error TEXT,
    failure_reason TEXT,
    dry_run BOOLEAN DEFAULT 0 NOT NULL,
    traceparent TEXT,
    retried_at TEXT,
    in_doubt_at TEXT,
    is_cautious BOOLEAN,
    waits_for TEXT,
    CONSTRAINT uq_{name}_event_id UNIQUE (event_id),
    CONSTRAINT ck_{name}_failed_is_spent CHECK ((attempt_count >= 3) = (failed_at IS NOT NULL)),
    CONSTRAINT ck_{name}_claim_is_open CHECK (claim_token IS NULL OR (processed_at IS NULL AND failed_at IS NULL))
);
CREATE INDEX {schema}ix_{name}_backing_off ON {name} (available_at)
    WHERE coalesce(failed_at, processed_at) IS NULL AND available_at > created_at;
CREATE INDEX {schema}ix_{name}_below_floor ON {name} (subject, id)
    WHERE coalesce(failed_at, processed_at) IS NULL AND (retried_at IS NOT NULL OR waits_for IS NOT NULL);
CREATE INDEX {schema}ix_{name}_delivered ON {name} (processed_at)
    WHERE processed_at IS NOT NULL;
CREATE INDEX {schema}ix_{name}_delivered_subject ON {name} (subject, id)
    WHERE processed_at IS NOT NULL;
CREATE INDEX {schema}ix_{name}_failed ON {name} (subject, id)
    WHERE failed_at IS NOT NULL;
CREATE INDEX {schema}ix_{name}_failed_id ON {name} (id)
    WHERE failed_at IS NOT NULL;
CREATE INDEX {schema}ix_{name}_failed_reason ON {name} (failure_reason, id)
    WHERE failed_at IS NOT NULL;
CREATE INDEX {schema}ix_{name}_open ON {name} (id)
    WHERE processed_at IS NULL AND failed_at IS NULL AND waits_for IS NULL;
CREATE INDEX {schema}ix_{name}_open_subject ON {name} (subject, id)
    WHERE coalesce(processed_at, failed_at) IS NULL;
CREATE INDEX {schema}ix_{name}_set_apart ON {name} (id)
    WHERE coalesce(failed_at, processed_at) IS NULL AND waits_for IS NOT NULL;
CREATE INDEX {schema}ix_{name}_waiting ON {name} (waits_for, available_at)
    WHERE waits_for IS NOT NULL;
CREATE TABLE {schema}{name}_leases (
    token TEXT NOT NULL,
    until TEXT NOT NULL,
    event_ids JSON NOT NULL,
    PRIMARY KEY (token)
);
CREATE INDEX {schema}ix_{name}_leases_until ON {name}_leases (until);
CREATE TABLE {schema}{name}_waits (
    "key" TEXT NOT NULL,
    reason TEXT NOT NULL,
    since TEXT NOT NULL,
    look_at TEXT NOT NULL,
    PRIMARY KEY ("key")
);
CREATE TABLE {schema}{name}_gate (
    id SMALLINT NOT NULL,
    state TEXT DEFAULT 'open' NOT NULL,
    until TEXT,
    until_set_at TEXT,
    reason TEXT,
    next_slot_at TEXT NOT NULL,
    outages INTEGER DEFAULT '0' NOT NULL,
    held_by TEXT,
    PRIMARY KEY (id),
    CONSTRAINT ck_{name}_gate_is_one_row CHECK (id = 1),
    CONSTRAINT ck_{name}_gate_open_has_no_end CHECK ((state = 'open' OR held_by IS NOT NULL) = (until IS NULL)),
    CONSTRAINT ck_{name}_gate_held_by_is_held CHECK (held_by IS NULL OR state = 'held')
);
CREATE TABLE {schema}{name}_workers (
    id TEXT NOT NULL,
    types JSON NOT NULL,
    seen_at TEXT NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE {schema}{name}_deliveries (
    id INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    duration_ms INTEGER NOT NULL,
    endpoint TEXT NOT NULL,
    events INTEGER NOT NULL,
    status INTEGER,
    category TEXT,
    correlation_id TEXT,
    outcome TEXT NOT NULL,
    error TEXT,
    traceparent TEXT,
    PRIMARY KEY (id)
);
CREATE INDEX {schema}ix_{name}_deliveries_started ON {name}_deliveries (started_at);
CREATE TABLE {schema}{name}_delivery_events (
    event_id BIGINT NOT NULL,
    delivery_id BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    PRIMARY KEY (event_id, delivery_id)
);
CREATE INDEX {schema}ix_{name}_delivery_events_delivery ON {name}_delivery_events (delivery_id);
CREATE TABLE {schema}{name}_ended_sessions (
    session TEXT NOT NULL,
    ends_at TEXT NOT NULL,
    PRIMARY KEY (session)
);
CREATE TABLE {schema}{name}_discarded (
    id INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    subject TEXT NOT NULL,
    payload TEXT NOT NULL,
    created_at TEXT NOT NULL,
    available_at TEXT NOT NULL,
    claim_token TEXT,
    processed_at TEXT,
    failed_at TEXT,
    attempt_count INTEGER NOT NULL,
    last_error TEXT,
    failure_reason TEXT,
    dry_run BOOLEAN NOT NULL,
    traceparent TEXT,
    retried_at TEXT,
    in_doubt_at TEXT,
    is_cautious BOOLEAN,
    waits_for TEXT,
    discarded_at TEXT NOT NULL,
    discarded_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT uq_{name}_discarded_event_id UNIQUE (event_id)
);
CREATE INDEX {schema}ix_{name}_discarded_at ON {name}_discarded (discarded_at);
CREATE INDEX {schema}ix_{name}_discarded_in_doubt ON {name}_discarded (subject, id)
    WHERE in_doubt_at IS NOT NULL;
CREATE TABLE {schema}{name}_audit (
    id INTEGER NOT NULL,
    at TEXT NOT NULL,
    "by" TEXT NOT NULL,
    action TEXT NOT NULL,
    reason TEXT,
    count INTEGER NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE {schema}{name}_audit_events (
    event_id BIGINT NOT NULL,
    audit_id BIGINT NOT NULL,
    PRIMARY KEY (event_id, audit_id)
);

-- down
DROP TABLE {schema}{name}_audit_events;
DROP TABLE {schema}{name}_audit;
DROP TABLE {schema}{name}_discarded;
DROP TABLE {schema}{name}_ended_sessions;
DROP TABLE {schema}{name}_delivery_events;
DROP TABLE {schema}{name}_deliveries;
DROP TABLE {schema}{name}_workers;
DROP TABLE {schema}{name}_gate;
DROP TABLE {schema}{name}_waits;
DROP TABLE {schema}{name}_leases;
DROP TABLE {schema}{name};
