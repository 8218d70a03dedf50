-- To be written.

SELECT
  outbox_events_leases.token,
  outbox_events_leases.event_ids
FROM outbox_events_leases
WHERE
  outbox_events_leases.until < STATEMENT_TIMESTAMP()
  AND outbox_events_leases.until >= (
    STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(param_1)s AS DOUBLE PRECISION))
  )
ORDER BY
  outbox_events_leases.until
LIMIT CAST(%(param_2)s AS INT)   FOR UPDATE SKIP LOCKED;
