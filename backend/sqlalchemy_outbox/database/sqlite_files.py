"""The bytes of a SQLite database: what was deleted is still in its write-ahead log, and may be in its pages.

`secure_delete` overwrites what a statement deletes. It does not overwrite the copies that stay in a page's unused space
when its rows were moved to another one (SQLite 3.40; see findings/).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from sqlalchemy import Engine

# Shorter ones stand in any file by chance.
_WORD_BYTES_MIN = 6
_CHUNK_BYTES = 16 * 1024 * 1024
# How long a lock of others, who write meanwhile, is waited for: the next look comes soon.
_LOCK_WAIT_SECONDS = 0.2


def clean(engine: Engine, words: Collection[str] | None) -> bool:
    """Leave none of the words in the files; None: whatever was deleted. False where others are in the way just now.

    The log is moved into the file and cut off. Where one of the words is in the file even so, that is written anew.
    """
    file = Path(str(engine.url.database))
    # A connection of its own: a pool may have one only, which requests would wait for.
    with closing(sqlite3.connect(file, timeout=_LOCK_WAIT_SECONDS, isolation_level=None)) as connection:
        try:
            if not _cut_log_off(connection):
                return False
            if words is None or _has_any(file, words):
                connection.execute("VACUUM")
                return _cut_log_off(connection)
        except sqlite3.OperationalError:
            # Locked: somebody writes, or reads for long.
            return False
    return True


def _cut_log_off(connection: sqlite3.Connection) -> bool:
    """Whether all of it was moved: who reads meanwhile keeps a part of it."""
    is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy


def _has_any(file: Path, words: Collection[str]) -> bool:
    # As JSON writes them too.
    written = {text.encode() for word in words for text in (word, json.dumps(word)[1:-1])}
    sought = [word for word in written if len(word) >= _WORD_BYTES_MIN]
    overlap = max(map(len, sought), default=0)
    end = b""
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            part = end + chunk
            if any(word in part for word in sought):
                return True
            end = part[-overlap:] if overlap else b""
    return False
