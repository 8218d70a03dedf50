-- 0002 Keep where each subject was delivered to, and who was forgotten.
-- Lock: none that anyone could notice, both tables are new. Duration: milliseconds.
-- Known by: {name}_erasures.cleaned_at

-- up
CREATE TABLE {schema}{name}_subjects (
    subject TEXT NOT NULL,
    record_id TEXT NOT NULL,
    key_property TEXT NOT NULL,
    first_delivered_at TEXT NOT NULL,
    last_delivered_at TEXT NOT NULL,
    PRIMARY KEY (subject)
);

CREATE TABLE {schema}{name}_erasures (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    key_name TEXT NOT NULL,
    event_id TEXT NOT NULL,
    way TEXT NOT NULL,
    reason TEXT NOT NULL,
    forgotten_at TEXT NOT NULL,
    look_at TEXT NOT NULL,
    erased_at TEXT,
    told TEXT,
    removed TEXT,
    cleaned_at TEXT,
    CONSTRAINT uq_{name}_erasures_event_id UNIQUE (event_id)
);

CREATE INDEX ix_{name}_erasures_name ON {schema}{name}_erasures (name);

CREATE INDEX ix_{name}_erasures_open ON {schema}{name}_erasures (id) WHERE cleaned_at IS NULL;

-- down
DROP TABLE {schema}{name}_erasures;

DROP TABLE {schema}{name}_subjects;
