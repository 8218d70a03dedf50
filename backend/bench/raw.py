"""The floor: claim and settle by hand, in bare psycopg and bare sqlite3, on the outbox's own table.

It holds events as the outbox does, under a token and a lease, and keeps each subject's order with any number of
workers. It knows nothing else: no retries, no gate, no events that travel alone.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import args_row, scalar_row
from sqlalchemy import make_url

from bench.table import EVENT_TYPE
from instruments.urls import plain_url

# The next open events by id. What lies before them in their subject must be among them, or another worker has it:
# rows that someone else has locked or claimed are not in `window`, and so hold their followers back.
_CLAIM = b"""
WITH within AS MATERIALIZED (
  SELECT id, subject FROM outbox_events
  WHERE processed_at IS NULL AND failed_at IS NULL AND claim_token IS NULL
    AND available_at <= statement_timestamp() AND event_type = %(type)s AND id > %(after)s
  ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), batch AS MATERIALIZED (
  SELECT id FROM within WHERE NOT EXISTS (
    SELECT FROM outbox_events AS earlier
    WHERE earlier.subject = within.subject AND earlier.id < within.id
      AND earlier.processed_at IS NULL AND earlier.failed_at IS NULL
      AND earlier.id NOT IN (SELECT id FROM within)
  )
), taken AS (
  UPDATE outbox_events SET claim_token = %(token)s
  WHERE id = ANY (ARRAY (SELECT id FROM batch)) AND claim_token IS NULL
  RETURNING id, event_id, event_type, subject, payload, created_at, attempt_count
), lease AS (
  INSERT INTO outbox_events_leases (token, until, event_ids)
  SELECT %(token)s, statement_timestamp() + interval '20 s', json_agg(id) FROM taken HAVING count(*) > 0
)
SELECT * FROM taken
"""
_SETTLE = b"""
WITH lease AS (DELETE FROM outbox_events_leases WHERE token = %(token)s RETURNING token)
UPDATE outbox_events SET processed_at = statement_timestamp(), claim_token = NULL FROM lease
WHERE id = ANY (%(ids)s) AND claim_token = lease.token
"""
_PAUSE_SECONDS = 0.001
_OPEN = b"SELECT EXISTS (SELECT FROM outbox_events WHERE processed_at IS NULL AND failed_at IS NULL)"
_SQLITE_CLAIM = """
UPDATE outbox_events SET claim_token = :token
WHERE id IN (
  SELECT id FROM outbox_events AS head
  WHERE processed_at IS NULL AND failed_at IS NULL AND claim_token IS NULL
    AND available_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AND event_type = :type AND id > :after
    AND NOT EXISTS (
      SELECT 1 FROM outbox_events AS earlier
      WHERE earlier.subject = head.subject AND earlier.id < head.id
        AND earlier.processed_at IS NULL AND earlier.failed_at IS NULL AND earlier.claim_token IS NOT NULL
    )
  ORDER BY id LIMIT :limit
)
RETURNING id, event_id, event_type, subject, payload, created_at, attempt_count
"""
_SQLITE_LEASE = """
INSERT INTO outbox_events_leases (token, until, event_ids)
VALUES (?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '20 seconds'), ?)
"""
_SQLITE_END_LEASE = "DELETE FROM outbox_events_leases WHERE token = ?"
_SQLITE_SETTLE = """
UPDATE outbox_events SET processed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), claim_token = NULL
WHERE id IN (SELECT value FROM json_each(?)) AND claim_token = ?
"""


class Claimed(NamedTuple):
    """What a destination needs of an event, in the order of RETURNING."""

    id: int
    event_id: UUID
    event_type: str
    subject: str
    payload: str
    created_at: datetime
    attempt_count: int


Cursor = psycopg.Cursor[Claimed]


def connect(url: str) -> psycopg.Connection[Claimed]:
    connection = psycopg.connect(plain_url(make_url(url)), autocommit=True, row_factory=args_row(Claimed))
    connection.prepare_threshold = 0
    return connection


def drain(url: str, batch_size: int, workers: int) -> int:
    """Claim and settle until nothing is left, from so many threads with a connection each; the number of events."""
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(_drain(url, batch_size))) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def _drain(url: str, batch_size: int) -> int:
    count = after = 0
    with connect(url) as connection, connection.cursor(binary=True) as cursor:
        while True:
            events, token = claim(cursor, batch_size, after)
            ids = [event.id for event in events]
            # A claim that takes nothing may have met rows that other workers had locked, also to take nothing of them.
            if not ids and after == 0:
                if not _is_any_open(connection):
                    return count
                time.sleep(_PAUSE_SECONDS)
            count += settle(cursor, ids, token)
            after = max(ids, default=0)


def _is_any_open(connection: psycopg.Connection[Claimed]) -> bool:
    return connection.cursor(row_factory=scalar_row).execute(_OPEN).fetchone() is True


def claim(cursor: Cursor, limit: int, after: int = 0) -> tuple[list[Claimed], str]:
    token = uuid4().hex
    parameters = {"type": EVENT_TYPE, "after": after, "limit": limit, "token": token}
    return cursor.execute(_CLAIM, parameters).fetchall(), token


def settle(cursor: Cursor, ids: list[int], token: str) -> int:
    if not ids:
        return 0
    return cursor.execute(_SETTLE, {"ids": ids, "token": token}).rowcount


def drain_sqlite(file: Path, batch_size: int) -> int:
    """The same on a SQLite file, by one connection with the outbox's own settings."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    count = after = 0
    while True:
        token = uuid4().hex
        parameters = {"token": token, "type": EVENT_TYPE, "after": after, "limit": batch_size}
        connection.execute("BEGIN IMMEDIATE")
        ids = [event[0] for event in connection.execute(_SQLITE_CLAIM, parameters).fetchall()]
        if ids:
            connection.execute(_SQLITE_LEASE, (token, str(ids)))
        connection.execute("COMMIT")
        if ids:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_SQLITE_END_LEASE, (token,))
            count += connection.execute(_SQLITE_SETTLE, (str(ids), token)).rowcount
            connection.execute("COMMIT")
        elif after == 0:
            connection.close()
            return count
        after = max(ids, default=0)
