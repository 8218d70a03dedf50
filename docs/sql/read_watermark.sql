-- Reads up to which id every event is visible or will never be, and below which id none is open.
-- Built by sqlalchemy_outbox/claiming/watermark.py; decision 0008.
--
-- Reads: the end of the primary key, ix_…_open from the first open id on, and pg_locks.
--
-- Why so:
-- - Transactions commit in another order than they draw ids. Whoever enqueues holds RowExclusiveLock from before its
--   first id until it has ended: once all who held it at a moment are gone, that moment's ids are settled.
-- - pg_locks of this table, and not pg_snapshot_xmin(), which stands still for any old transaction that has written.
-- - The highest id comes from the statement's snapshot, which is older than its reading of the locks. Were it newer, an
--   id could be missed.

SELECT
  (
    SELECT
      MAX(outbox_events.id) AS max_1
    FROM outbox_events
  ) AS last_id,
  (
    SELECT
      MIN(outbox_events.id) AS min_1
    FROM outbox_events
    WHERE
      outbox_events.processed_at IS NULL
      AND outbox_events.failed_at IS NULL
      AND outbox_events.waits_for IS NULL
      AND outbox_events.id >= CAST(%(first_open_id)s AS BIGINT)
  ) AS first_open_id,
  (
    SELECT
      ARRAY_AGG(pg_catalog.pg_locks.virtualtransaction) AS array_agg_1
    FROM pg_catalog.pg_locks
    WHERE
      pg_catalog.pg_locks.database = (
        SELECT
          pg_catalog.pg_database.oid
        FROM pg_catalog.pg_database
        WHERE
          pg_catalog.pg_database.datname = CURRENT_DATABASE()
      )
      AND pg_catalog.pg_locks.relation = CAST(CAST(CAST(%(name)s AS VARCHAR) AS REGCLASS) AS OID)
      AND pg_catalog.pg_locks.mode = CAST(%(mode_1)s AS VARCHAR)
      AND pg_catalog.pg_locks.granted
  ) AS writers;
