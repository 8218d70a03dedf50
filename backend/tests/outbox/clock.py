"""A database whose clock a test may move: what the outbox asks for the time is overlaid with functions of our own."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, event, text

_EPOCH_AS_JULIAN_DAY = 2440587.5
_SECONDS_A_DAY = 86400
# Before pg_catalog in the search path, so that they are found instead.
_OVERLAYS = """
    CREATE SCHEMA clock;
    CREATE TABLE clock.jump (by interval NOT NULL);
    INSERT INTO clock.jump VALUES ('0');
    CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT pg_catalog.now() + by FROM clock.jump';
    CREATE FUNCTION clock.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT pg_catalog.statement_timestamp() + by FROM clock.jump';
    CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT pg_catalog.clock_timestamp() + by FROM clock.jump';
"""


class DatabaseClock:
    """The clock of an engine's database; as it is, until it jumps."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by = timedelta(0)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", self._overlay_sqlite)
        else:
            with engine.begin() as connection:
                connection.execute(text(_OVERLAYS))
                name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
                connection.execute(text(f'ALTER DATABASE "{name}" SET search_path = clock, pg_catalog, public'))
        engine.dispose()

    def jump(self, by: timedelta) -> None:
        """From now on it shows so much more; less, where that is negative."""
        self._by += by
        if self._engine.dialect.name != "sqlite":
            with self._engine.begin() as connection:
                connection.execute(text("UPDATE clock.jump SET by = :by"), {"by": self._by})

    def _overlay_sqlite(self, connection: sqlite3.Connection, _: object) -> None:
        connection.create_function("strftime", -1, self._strftime)
        connection.create_function("julianday", 1, self._julianday)

    def _strftime(self, _format: str, now: str, *modifiers: str) -> str:
        """As the outbox calls it: now, plus so many seconds."""
        assert now == "now"
        shifted = self._now() + timedelta(seconds=sum(float(it.removesuffix(" seconds")) for it in modifiers))
        return shifted.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _julianday(self, instant: str | None) -> float | None:
        if instant is None:
            return None
        moment: Any = self._now() if instant == "now" else datetime.fromisoformat(instant)
        julian_day: float = moment.timestamp() / _SECONDS_A_DAY + _EPOCH_AS_JULIAN_DAY
        return julian_day

    def _now(self) -> datetime:
        return datetime.now(UTC) + self._by
