-- Claims events of given subjects behind an id: those that were skipped while the subject was busy, and retries.
-- Built like claim_ahead.sql; the window differs, and what is set apart needs no look of its own, since it is in it.
--
-- Reads: ix_…_open_subject for the window, so many rows for each subject; then as claim_ahead.sql does.
--
-- Why so:
-- - LATERAL with a LIMIT for each subject: in one range over all, a subject with a backlog would fill the window.
-- - The subjects as one JSON array: whatever their number, it is one parameter of one statement.

WITH runs AS (
  SELECT
    in_window.id AS id,
    MIN(in_window.id) OVER (PARTITION BY in_window.subject) AS head_id,
    MIN(in_window.is_due) OVER (PARTITION BY in_window.subject ORDER BY in_window.id) AS unbroken,
    SUM(CASE WHEN (
      in_window.attempt_count > 0
    ) THEN 1 ELSE 0 END) OVER (PARTITION BY in_window.subject ORDER BY in_window.id) AS charged
  FROM (
    SELECT
      event.id AS id,
      event.subject AS subject,
      event.attempt_count AS attempt_count,
      CASE
        WHEN (
          event.claim_token IS NULL
          AND (
            event.available_at <= STATEMENT_TIMESTAMP() OR event.available_at <= event.created_at
          )
          AND event.event_type = ANY(
            CAST($3 AS TEXT[])
          )
        )
        THEN 1
        ELSE 0
      END AS is_due
    FROM outbox_events AS event
    WHERE
      event.id = ANY(
        ARRAY((
          SELECT
            its_events.id
          FROM JSON_TO_RECORDSET(CAST(CAST($4 AS VARCHAR) AS JSON)) AS subjects(subject TEXT, after BIGINT)
          JOIN LATERAL (
            SELECT
              event.id AS id
            FROM outbox_events AS event
            WHERE
              event.subject = subjects.subject
              AND event.id > subjects.after
              AND COALESCE(event.processed_at, event.failed_at) IS NULL
            ORDER BY
              event.id
            LIMIT 64
          ) AS its_events
            ON TRUE
        ))
      )
      AND event.processed_at IS NULL
      AND event.failed_at IS NULL
  ) AS in_window
), heads AS (
  SELECT
    event.id AS id,
    event.attempt_count AS attempt_count,
    event.in_doubt_at AS in_doubt_at
  FROM outbox_events AS event
  WHERE
    event.id = ANY(
      ARRAY((
        SELECT
          runs.id
        FROM runs
        WHERE
          runs.id = runs.head_id AND runs.unbroken = 1
      ))
    )
    AND event.processed_at IS NULL
    AND event.failed_at IS NULL
    AND event.claim_token IS NULL
    AND (
      event.available_at <= STATEMENT_TIMESTAMP() OR event.available_at <= event.created_at
    )
    AND event.event_type = ANY(
      CAST($3 AS TEXT[])
    )
    AND (
      SELECT
        earlier.id
      FROM outbox_events AS earlier
      WHERE
        earlier.subject = event.subject
        AND earlier.id < event.id
        AND earlier.id >= (
          SELECT
            CAST($5 AS BIGINT) AS anon_1
        )
        AND COALESCE(earlier.processed_at, earlier.failed_at) IS NULL
      LIMIT 1
    ) IS NULL
    AND (
      SELECT
        earlier.id
      FROM outbox_events AS earlier
      WHERE
        earlier.subject = event.subject
        AND earlier.id < event.id
        AND COALESCE(earlier.failed_at, earlier.processed_at) IS NULL
        AND (
          earlier.retried_at IS NOT NULL OR earlier.waits_for IS NOT NULL
        )
      LIMIT 1
    ) IS NULL
    AND (
      event.retried_at IS NULL
      OR NOT (
        EXISTS(
          SELECT
            claimed.id
          FROM outbox_events AS claimed
          WHERE
            claimed.subject = event.subject
            AND claimed.id = ANY(
              ARRAY((
                SELECT
                  CAST(JSON_ARRAY_ELEMENTS_TEXT(outbox_events_leases.event_ids) AS BIGINT) AS id
                FROM outbox_events_leases
              ))
            )
            AND claimed.processed_at IS NULL
            AND claimed.failed_at IS NULL
        )
      )
    )
  ORDER BY
    event.id
  LIMIT 50   FOR NO KEY UPDATE SKIP LOCKED
), takeable AS (
  SELECT
    runs.id AS id,
    runs.head_id AS head_id
  FROM runs
  WHERE
    runs.unbroken = 1
    AND (
      runs.id = runs.head_id
      OR runs.charged = 0
      OR runs.charged = 1
      AND (
        runs.head_id IN (
          SELECT
            heads.id
          FROM heads
          WHERE
            heads.attempt_count = 1 AND heads.in_doubt_at IS NOT NULL
        )
      ) IS TRUE
    )
    AND (
      runs.head_id IN (
        SELECT
          heads.id
        FROM heads
      )
    ) IS TRUE
), batch AS (
  SELECT
    takeable.id AS id
  FROM takeable
  JOIN (
    SELECT
      heads.id AS id,
      heads.attempt_count AS attempt_count
    FROM heads
    ORDER BY
      heads.id
    LIMIT 1
  ) AS oldest
    ON TRUE
  WHERE
    CASE
      WHEN (
        oldest.attempt_count > 0
      )
      THEN oldest.id = takeable.head_id
      ELSE (
        takeable.head_id IN (
          SELECT
            heads.id
          FROM heads
          WHERE
            heads.attempt_count = 0
        )
      ) IS TRUE
    END
    AND CLOCK_TIMESTAMP() < (
      CURRENT_TIMESTAMP + MAKE_INTERVAL(
        secs => CAST(COALESCE(
          (
            SELECT
              $6 AS anon_2
          ),
          (
            SELECT
              COUNT(*) AS count_1
            FROM GENERATE_SERIES(1, CAST($7 AS INT)) AS anon_3
          )
        ) AS DOUBLE PRECISION)
      )
    )
  ORDER BY
    takeable.head_id,
    takeable.id
  LIMIT 50
), taken AS (
  UPDATE outbox_events AS event SET claim_token = CAST($1 AS VARCHAR)
  WHERE
    event.id = ANY(
      ARRAY((
        SELECT
          batch.id
        FROM batch
      ))
    )
    AND event.processed_at IS NULL
    AND event.failed_at IS NULL
    AND event.claim_token IS NULL
  RETURNING id, event_id, event_type, subject, payload, created_at, attempt_count, last_error, traceparent, retried_at, in_doubt_at, is_cautious
), lease AS (
  INSERT INTO outbox_events_leases (
    token,
    until,
    event_ids
  )
  SELECT
    CAST($1 AS VARCHAR) AS token,
    (
      STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => CAST($2 AS DOUBLE PRECISION))
    ) AS until,
    JSON_AGG(taken.id) AS event_ids
  FROM taken
  HAVING
    COUNT(*) > 0
)
SELECT
  seen.events,
  seen.last_id,
  locked.heads,
  locked.last_head_id,
  kept.first_left_id,
  (
    SELECT
      MAX(outbox_events_erasures.id) AS max_1
    FROM outbox_events_erasures
  ) AS last_mark,
  CONVERT_TO(CAST(TO_JSON(taken) AS TEXT), 'UTF8') AS convert_to_1
FROM (
  SELECT
    COUNT(*) AS events,
    MAX(runs.id) AS last_id
  FROM runs
) AS seen
JOIN (
  SELECT
    COUNT(*) AS heads,
    MAX(heads.id) AS last_head_id
  FROM heads
) AS locked
  ON TRUE
JOIN (
  SELECT
    MIN(takeable.id) AS first_left_id
  FROM takeable
  WHERE
    (
      NOT takeable.id IN (
        SELECT
          batch.id
        FROM batch
      )
    )
) AS kept
  ON TRUE
LEFT OUTER JOIN taken
  ON TRUE;
