-- Reads the first events of their subjects whose backoff is over, or that a person retried; the longest due first.
-- Built by sqlalchemy_outbox/claiming/retries.py.
--
-- Reads: ix_…_backing_off; for each row ix_…_open_subject.
--
-- Why so:
-- - `available_at > created_at` is the predicate of that index: events that were never pushed back are not in it, so a
--   backlog costs nothing here.

SELECT
  outbox_events.id,
  CONVERT_TO(outbox_events.subject, 'UTF8') AS subject,
  outbox_events.attempt_count
FROM outbox_events
WHERE
  COALESCE(outbox_events.failed_at, outbox_events.processed_at) IS NULL
  AND outbox_events.available_at > outbox_events.created_at
  AND outbox_events.claim_token IS NULL
  AND outbox_events.available_at <= STATEMENT_TIMESTAMP()
  AND outbox_events.event_type IN ((
      CAST(CAST(%(event_type_1_1)s AS VARCHAR) AS JSON) #>> '{}'
  ))
  AND (
    SELECT
      earlier.id
    FROM outbox_events AS earlier
    WHERE
      earlier.subject = outbox_events.subject
      AND earlier.id < outbox_events.id
      AND COALESCE(earlier.processed_at, earlier.failed_at) IS NULL
    LIMIT 1
  ) IS NULL
ORDER BY
  outbox_events.available_at
LIMIT CAST(%(param_1)s AS INT);
