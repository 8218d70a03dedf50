-- Stores the outcomes of a claim and ends its lease: of those events that the token still holds.
-- Built by sqlalchemy_outbox/settling/leases.py; decision 0012.
--
-- Reads: the lease by its token, the events by the primary key. `groups` has a row for each way in which events leave
--   the claim, with their ids: almost always one.
--
-- Why so:
-- - The lease is deleted first, which locks out who takes back leases that ran out: a worker that comes too late finds
--   no lease and settles nothing.
-- - One statement for all outcomes: a settle is one round trip.
-- - Ids in an array: a connection keeps the plan that it made while the table was small, and read it whole then (24 ms
--   against 1 ms after 200,000 events).

SELECT
  outbox_events.id,
  outbox_events.event_id,
  CONVERT_TO(outbox_events.event_type, 'UTF8') AS event_type,
  CONVERT_TO(outbox_events.subject, 'UTF8') AS subject,
  CONVERT_TO(outbox_events.payload, 'UTF8') AS payload,
  CAST((
    EXTRACT(EPOCH FROM outbox_events.created_at) * 1000000
  ) AS BIGINT) AS created_at,
  CAST((
    EXTRACT(EPOCH FROM outbox_events.available_at) * 1000000
  ) AS BIGINT) AS available_at,
  outbox_events.claim_token,
  CAST((
    EXTRACT(EPOCH FROM outbox_events.processed_at) * 1000000
  ) AS BIGINT) AS processed_at,
  CAST((
    EXTRACT(EPOCH FROM outbox_events.failed_at) * 1000000
  ) AS BIGINT) AS failed_at,
  outbox_events.attempt_count,
  CONVERT_TO(outbox_events.last_error, 'UTF8') AS last_error,
  CONVERT_TO(outbox_events.failure_reason, 'UTF8') AS failure_reason,
  outbox_events.dry_run,
  outbox_events.traceparent,
  CAST((
    EXTRACT(EPOCH FROM outbox_events.retried_at) * 1000000
  ) AS BIGINT) AS retried_at,
  CAST((
    EXTRACT(EPOCH FROM outbox_events.in_doubt_at) * 1000000
  ) AS BIGINT) AS in_doubt_at,
  outbox_events.is_cautious,
  CONVERT_TO(outbox_events.waits_for, 'UTF8') AS waits_for
FROM outbox_events
WHERE
  outbox_events.id = CAST(%(id_1)s AS BIGINT);

WITH lease AS (
  DELETE FROM outbox_events_leases
  WHERE
    outbox_events_leases.token = CAST(%(token)s AS VARCHAR)
  RETURNING outbox_events_leases.token, STATEMENT_TIMESTAMP() AS at
), rows AS (
  SELECT
    UNNEST(groups.ids) AS id,
    groups.state AS state,
    groups.attempt_count AS attempt_count,
    groups.last_error AS last_error,
    groups.dry_run AS dry_run,
    groups.wait_seconds AS wait_seconds,
    groups.failure_reason AS failure_reason,
    groups.is_in_doubt AS is_in_doubt,
    groups.waits_for AS waits_for
  FROM JSON_TO_RECORDSET(CAST(CAST(%(groups)s AS VARCHAR) AS JSON)) AS groups(ids BIGINT[], state TEXT, attempt_count INT, last_error TEXT, dry_run BOOLEAN, wait_seconds DOUBLE PRECISION, failure_reason TEXT, is_in_doubt BOOLEAN, waits_for TEXT)
), settled AS (
  UPDATE outbox_events SET created_at = CASE
    WHEN (
      rows.wait_seconds > CAST(%(wait_seconds_1)s AS INT)
    )
    THEN CASE
      WHEN (
        outbox_events.created_at > (
          STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(param_1)s AS DOUBLE PRECISION))
        )
      )
      THEN (
        STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(param_1)s AS DOUBLE PRECISION))
      )
      ELSE outbox_events.created_at
    END
    ELSE outbox_events.created_at
  END, available_at = CASE
    WHEN (
      rows.wait_seconds > CAST(%(wait_seconds_2)s AS INT)
    )
    THEN (
      STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(rows.wait_seconds AS DOUBLE PRECISION))
    )
    ELSE outbox_events.available_at
  END, claim_token = NULL, processed_at = CASE WHEN (
    rows.state = CAST(%(state_1)s AS VARCHAR)
  ) THEN STATEMENT_TIMESTAMP() ELSE NULL END, failed_at = CASE WHEN (
    rows.state = CAST(%(state_2)s AS VARCHAR)
  ) THEN STATEMENT_TIMESTAMP() ELSE NULL END, attempt_count = rows.attempt_count, last_error = rows.last_error, failure_reason = rows.failure_reason, dry_run = rows.dry_run, in_doubt_at = CASE
    WHEN (
      rows.state = CAST(%(state_3)s AS VARCHAR)
    )
    THEN NULL
    WHEN rows.is_in_doubt
    THEN STATEMENT_TIMESTAMP()
    ELSE outbox_events.in_doubt_at
  END, waits_for = CASE
    WHEN (
      rows.state = CAST(%(state_4)s AS VARCHAR)
    )
    THEN COALESCE(rows.waits_for, outbox_events.waits_for)
    ELSE NULL
  END
  FROM lease, rows
  WHERE
    outbox_events.claim_token = lease.token
    AND outbox_events.id = ANY(
      ARRAY((
        SELECT
          rows.id
        FROM rows
      ))
    )
    AND outbox_events.id = rows.id
  RETURNING outbox_events.id
)
SELECT
  CAST((
    EXTRACT(EPOCH FROM lease.at) * 1000000
  ) AS BIGINT) AS at,
  (
    SELECT
      ARRAY_AGG(settled.id) AS array_agg_1
    FROM settled
  ) AS ids
FROM lease;
