-- Deletes delivered events past their retention, and discarded ones, a bounded step at a time, while there is no work.
-- Built by sqlalchemy_outbox/housekeeping/purge.py: where the step ends, the events up to there, discarded ones.
--
-- Reads: ix_…_delivered from where the last step ended; for each event ix_…_failed and ix_…_open_subject; then
--   ix_…_discarded_at.
--
-- Why so:
-- - An event stays while an older one of its subject is failed or open: a retry has to know what newer events set.
-- - A step ends at a time, and not after "the first thousand that may go": with a million that have to stay, each step
--   would read them all, 1.35 s once a minute; so it takes 10 ms.

SELECT
  CAST((
    EXTRACT(EPOCH FROM outbox_events.processed_at) * 1000000
  ) AS BIGINT) AS processed_at
FROM outbox_events
WHERE
  outbox_events.processed_at < (
    STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(param_1)s AS DOUBLE PRECISION))
  )
  AND outbox_events.processed_at < CAST(%(param_2)s AS TIMESTAMPTZ)
ORDER BY
  outbox_events.processed_at
LIMIT CAST(%(param_3)s AS INT)
OFFSET CAST(%(param_4)s AS INT);

SELECT
  outbox_events.id
FROM outbox_events
WHERE
  outbox_events.processed_at < (
    STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(param_1)s AS DOUBLE PRECISION))
  )
  AND outbox_events.processed_at < CAST(%(param_2)s AS TIMESTAMPTZ)
  AND (
    SELECT
      older.id
    FROM outbox_events AS older
    WHERE
      older.subject = outbox_events.subject AND older.id < outbox_events.id AND older.failed_at IS NOT NULL
    LIMIT 1
  ) IS NULL
  AND (
    SELECT
      older.id
    FROM outbox_events AS older
    WHERE
      older.subject = outbox_events.subject
      AND older.id < outbox_events.id
      AND COALESCE(older.processed_at, older.failed_at) IS NULL
    LIMIT 1
  ) IS NULL
ORDER BY
  outbox_events.processed_at
LIMIT CAST(%(param_3)s AS INT)   FOR UPDATE SKIP LOCKED;

SELECT
  outbox_events_discarded.id
FROM outbox_events_discarded
WHERE
  outbox_events_discarded.discarded_at < (
    STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(param_1)s AS DOUBLE PRECISION))
  )
  AND outbox_events_discarded.discarded_at < CAST(%(param_2)s AS TIMESTAMPTZ)
  AND (
    outbox_events_discarded.in_doubt_at IS NULL
    OR (
      SELECT
        older.id
      FROM outbox_events AS older
      WHERE
        older.subject = outbox_events_discarded.subject
        AND older.id < outbox_events_discarded.id
        AND older.failed_at IS NOT NULL
      LIMIT 1
    ) IS NULL
    AND (
      SELECT
        older.id
      FROM outbox_events AS older
      WHERE
        older.subject = outbox_events_discarded.subject
        AND older.id < outbox_events_discarded.id
        AND COALESCE(older.processed_at, older.failed_at) IS NULL
      LIMIT 1
    ) IS NULL
  )
ORDER BY
  outbox_events_discarded.discarded_at
LIMIT CAST(%(param_3)s AS INT)   FOR UPDATE SKIP LOCKED;

SELECT
  outbox_events.id
FROM outbox_events
WHERE
  outbox_events.failed_at IS NOT NULL
  AND outbox_events.failure_reason = 'its subject was forgotten'
  AND outbox_events.failed_at < (
    STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(param_1)s AS DOUBLE PRECISION))
  )
  AND outbox_events.failed_at < CAST(%(param_2)s AS TIMESTAMPTZ)
ORDER BY
  outbox_events.id
LIMIT CAST(%(param_3)s AS INT)   FOR UPDATE SKIP LOCKED;
