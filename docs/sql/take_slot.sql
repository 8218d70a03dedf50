-- Takes the next moment at which a request may leave, from all processes' one row; nothing where the gate is shut.
-- Built by sqlalchemy_outbox/gate/row.py; decision 0005.
--
-- Reads: one row.
--
-- Why so:
-- - One UPDATE whose WHERE says whether the slot may be taken: no lock is held between a reading and a writing.
-- - A moment for each request, and not a bucket of tokens, which lets a burst through after a pause.
-- - A next moment that is incredibly far ahead was stored by a wrong clock, and counts as now.

UPDATE outbox_events_gate SET state = CASE
  WHEN (
    outbox_events_gate.state = CAST(%(state_1)s AS VARCHAR)
    AND outbox_events_gate.outages < CAST(%(outages_1)s AS INT)
  )
  THEN CAST(%(param_1)s AS VARCHAR)
  ELSE outbox_events_gate.state
END, until = CASE
  WHEN (
    outbox_events_gate.state = CAST(%(state_2)s AS VARCHAR)
    OR outbox_events_gate.state = CAST(%(state_1)s AS VARCHAR)
    AND outbox_events_gate.outages < CAST(%(outages_1)s AS INT)
  )
  THEN NULL
  ELSE CASE
    WHEN (
      outbox_events_gate.state = CAST(%(state_3)s AS VARCHAR)
    )
    THEN (
      STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(param_2)s AS DOUBLE PRECISION))
    )
    ELSE (
      STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(param_3)s AS DOUBLE PRECISION))
    )
  END
END, until_set_at = STATEMENT_TIMESTAMP(), reason = CASE
  WHEN (
    outbox_events_gate.state = CAST(%(state_1)s AS VARCHAR)
    AND outbox_events_gate.outages < CAST(%(outages_1)s AS INT)
  )
  THEN NULL
  ELSE outbox_events_gate.reason
END, next_slot_at = (
  STATEMENT_TIMESTAMP() + MAKE_INTERVAL(
    secs => CAST(CAST(EXTRACT(EPOCH FROM (
      CASE
        WHEN (
          outbox_events_gate.next_slot_at > STATEMENT_TIMESTAMP()
          AND outbox_events_gate.next_slot_at <= (
            STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(credible_max)s AS DOUBLE PRECISION))
          )
        )
        THEN outbox_events_gate.next_slot_at
        ELSE STATEMENT_TIMESTAMP()
      END
    ) - STATEMENT_TIMESTAMP()) AS DECIMAL) + %(interval)s AS DOUBLE PRECISION)
  )
)
WHERE
  (
    outbox_events_gate.state = CAST(%(state_4)s AS VARCHAR) OR outbox_events_gate.until <= STATEMENT_TIMESTAMP()
  )
  AND (
    outbox_events_gate.next_slot_at <= (
      STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(ahead_max)s AS DOUBLE PRECISION))
    )
    OR outbox_events_gate.next_slot_at > (
      STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST(%(credible_max)s AS DOUBLE PRECISION))
    )
  )
RETURNING outbox_events_gate.state, outbox_events_gate.outages, CAST(EXTRACT(EPOCH FROM (
  outbox_events_gate.next_slot_at
) - STATEMENT_TIMESTAMP()) AS DECIMAL) AS wait_seconds;
