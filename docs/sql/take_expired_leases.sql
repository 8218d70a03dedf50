-- Locks leases that ran out. Their events are charged an attempt, so that one which kills its worker fails in the end.
-- Built by sqlalchemy_outbox/settling/leases.py.
--
-- Reads: ix_…_leases_until, within a bounded time before now.
--
-- Why so:
-- - SKIP LOCKED: every worker sweeps, and each lease is taken by one.
-- - A lower bound: what ran out before it was taken before, and its dead rows would be read each time while an old
--   transaction is open.

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
