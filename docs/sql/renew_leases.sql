-- To be written.

WITH held AS (
  SELECT
    outbox_events_leases.token AS token
  FROM outbox_events_leases
  WHERE
    outbox_events_leases.token IN (CAST(%(token_1_1)s AS VARCHAR))   FOR UPDATE SKIP LOCKED
)
UPDATE outbox_events_leases SET until = (
  STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(param_1)s AS DOUBLE PRECISION))
)
WHERE
  outbox_events_leases.token IN (
    SELECT
      held.token
    FROM held
  )
RETURNING outbox_events_leases.token;
