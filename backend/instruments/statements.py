"""What the worker sends to the database: every statement and commit of an engine, with its duration."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import psycopg
from sqlalchemy import Connection, Engine, event

# Longer than a worker takes from one statement to the next.
_QUIET_SECONDS = 0.02


class Kind(StrEnum):
    CLAIM = "claim"
    SETTLE = "settle"
    GATE = "gate"
    OTHER = "other"


def kind_of(statement: str) -> Kind:
    """Told by what only one of them says: settling sets `processed_at`, claiming sets a token and returns payloads."""
    if "outbox_events_gate" in statement:
        return Kind.GATE
    if "claim_token=" not in statement:
        return Kind.OTHER
    if "processed_at=" in statement:
        return Kind.SETTLE
    return Kind.CLAIM if "payload" in statement else Kind.OTHER


@dataclass(frozen=True, slots=True)
class Sent:
    """One statement; `rows` is how many it touched or returned."""

    kind: Kind
    seconds: float
    rows: int
    sql: str
    parameters: Any


@dataclass(slots=True)
class Log:
    statements: list[Sent] = field(default_factory=list)
    commits: int = 0
    running: int = 0
    ended_at: float = 0.0

    def of(self, kind: Kind) -> list[Sent]:
        return [it for it in self.statements if it.kind is kind]

    def claims(self) -> list[Sent]:
        """Those that brought more than one event; one that brings none has a row too, of how far it reached."""
        return [it for it in self.of(Kind.CLAIM) if it.rows > 1]

    def claim_seconds(self) -> list[float]:
        return [it.seconds for it in self.claims()]

    def wait_until_quiet(self) -> None:
        """Return once there were statements, and then none for a while."""
        while not self.statements or self.running or time.perf_counter() - self.ended_at < _QUIET_SECONDS:
            time.sleep(_QUIET_SECONDS / 10)

    def shares(self, seconds: float) -> str:
        """Where the time of a single-file worker went."""
        by_kind: defaultdict[Kind, list[float]] = defaultdict(list)
        for it in self.statements:
            by_kind[it.kind].append(it.seconds)
        parts = [
            f"{kind} {sum(times):.2f} s ({len(times)} × {1000 * sum(times) / len(times):.2f} ms)"
            for kind, times in sorted(by_kind.items())
        ]
        rest = seconds - sum(it.seconds for it in self.statements)
        return f"of {seconds:.2f} s: {', '.join(parts)}, the rest (commits, threads, Python) {rest:.2f} s"


Run = Callable[[], int]
"""Have the statement carried out; how many rows it touched or returned."""
Around = Callable[[str, Any, Run], None]
"""What to do with a statement and its parameters instead of just running it."""


@contextmanager
def intercept(engine: Engine, around: Around) -> Iterator[None]:
    """Call `around` for each statement of connections that are taken from the engine during the block, by any thread.

    On psycopg its cursors are asked: SQLAlchemy's events do not see what it is given past SQLAlchemy.
    """
    intercepted = _sqlalchemys(around) if engine.dialect.driver != "psycopg" else _psycopgs(around)
    for name, listener in intercepted.items():
        event.listen(engine, name, listener)
    try:
        yield
    finally:
        for name, listener in intercepted.items():
            event.remove(engine, name, listener)


def _sqlalchemys(around: Around) -> Mapping[str, Callable[..., object]]:
    def execute(cursor: Any, sql: str, parameters: Any, _context: object) -> bool:
        def run() -> int:
            cursor.execute(sql, parameters)
            rows: int = cursor.rowcount
            return rows

        around(sql, parameters, run)
        return True

    return {"do_execute": execute}


def _psycopgs(around: Around) -> Mapping[str, Callable[..., object]]:
    class InterceptedCursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
            def run() -> int:
                super(InterceptedCursor, self).execute(query, params, **options)
                return self.rowcount

            around(query.decode() if isinstance(query, bytes) else query, params, run)
            return self

    def lend(connection: psycopg.Connection[Any], *_: object) -> None:
        connection.cursor_factory = InterceptedCursor

    def take_back(connection: psycopg.Connection[Any] | None, *_: object) -> None:
        if connection is not None:
            connection.cursor_factory = psycopg.Cursor

    return {"checkout": lend, "checkin": take_back}


@contextmanager
def watch(engine: Engine) -> Iterator[Log]:
    """Note what goes through the engine during the block."""
    log = Log()

    def note(sql: str, parameters: Any, run: Run) -> None:
        log.running += 1
        began_at = time.perf_counter()
        try:
            rows = run()
        finally:
            log.ended_at = time.perf_counter()
            log.running -= 1
        log.statements.append(Sent(kind_of(sql), log.ended_at - began_at, rows, sql, parameters))

    def commit(_connection: Connection) -> None:
        log.commits += 1

    event.listen(engine, "commit", commit)
    try:
        with intercept(engine, note):
            yield log
    finally:
        event.remove(engine, "commit", commit)


def explain(engine: Engine, sent: Sent) -> str:
    """The plan of a statement as it would run now; nothing of it stays."""
    with engine.connect() as connection:
        explaining = f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {sent.sql}"
        plan: Iterable[Any]
        if isinstance(sent.parameters, list):
            # What goes past SQLAlchemy names its parameters as the server does.
            driver: Any = connection.connection.driver_connection
            plan = psycopg.RawCursor(driver).execute(explaining.encode(), sent.parameters)
        else:
            plan = connection.exec_driver_sql(explaining, sent.parameters)
        lines = [str(row[0]) for row in plan]
        connection.rollback()
    return "\n".join(lines)
