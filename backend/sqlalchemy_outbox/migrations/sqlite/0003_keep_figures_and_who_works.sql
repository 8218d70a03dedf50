-- 0003 Keep figures by the minute, the gate's closures, and who works.
-- Lock: ACCESS EXCLUSIVE on {name}_workers, which has a few rows. Duration: milliseconds.
-- Known by: {name}_closures.times

-- up
ALTER TABLE {schema}{name}_workers ADD COLUMN started_at TEXT;

ALTER TABLE {schema}{name}_workers ADD COLUMN stopped_at TEXT;

ALTER TABLE {schema}{name}_workers ADD COLUMN machine TEXT;

ALTER TABLE {schema}{name}_workers ADD COLUMN process INTEGER;

ALTER TABLE {schema}{name}_workers ADD COLUMN version TEXT;

ALTER TABLE {schema}{name}_workers ADD COLUMN in_flight INTEGER;

ALTER TABLE {schema}{name}_workers ADD COLUMN events_per_second FLOAT;

ALTER TABLE {schema}{name}_workers ADD COLUMN requests_per_second FLOAT;

ALTER TABLE {schema}{name}_workers ADD COLUMN requests_allowed_per_second FLOAT;

CREATE TABLE {schema}{name}_figures (
    minutes SMALLINT NOT NULL,
    at TEXT NOT NULL,
    event_type TEXT NOT NULL,
    enqueued BIGINT DEFAULT '0' NOT NULL,
    delivered BIGINT DEFAULT '0' NOT NULL,
    failed BIGINT DEFAULT '0' NOT NULL,
    answered BIGINT DEFAULT '0' NOT NULL,
    refused BIGINT DEFAULT '0' NOT NULL,
    throttled BIGINT DEFAULT '0' NOT NULL,
    unanswered BIGINT DEFAULT '0' NOT NULL,
    lag_seconds FLOAT DEFAULT '0' NOT NULL,
    waiting BIGINT DEFAULT '0' NOT NULL,
    PRIMARY KEY (minutes, at, event_type)
);

CREATE TABLE {schema}{name}_counted (
    id SMALLINT NOT NULL,
    up_to BIGINT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT ck_{name}_counted_is_one_row CHECK (id = 1)
);

CREATE TABLE {schema}{name}_closures (
    began_at TEXT NOT NULL,
    ended_at TEXT,
    state TEXT NOT NULL,
    reason TEXT,
    held_by TEXT,
    times INTEGER DEFAULT '1' NOT NULL,
    PRIMARY KEY (began_at)
);

INSERT INTO {schema}{name}_closures (began_at, ended_at, state, reason, held_by)
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), CASE state WHEN 'throttled' THEN until END, state, reason, held_by
FROM {schema}{name}_gate WHERE state <> 'open';

-- down
DROP TABLE {schema}{name}_closures;

DROP TABLE {schema}{name}_counted;

DROP TABLE {schema}{name}_figures;

ALTER TABLE {schema}{name}_workers DROP COLUMN requests_allowed_per_second;

ALTER TABLE {schema}{name}_workers DROP COLUMN requests_per_second;

ALTER TABLE {schema}{name}_workers DROP COLUMN events_per_second;

ALTER TABLE {schema}{name}_workers DROP COLUMN in_flight;

ALTER TABLE {schema}{name}_workers DROP COLUMN version;

ALTER TABLE {schema}{name}_workers DROP COLUMN process;

ALTER TABLE {schema}{name}_workers DROP COLUMN machine;

ALTER TABLE {schema}{name}_workers DROP COLUMN stopped_at;

ALTER TABLE {schema}{name}_workers DROP COLUMN started_at;
