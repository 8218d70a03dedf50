"""What psycopg and PostgreSQL say to each other, by libpq's own trace: how often a client had to wait is counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psycopg
from sqlalchemy.orm import Session


@contextmanager
def traced(session: Session, path: Path) -> Iterator[Path]:
    """Write the protocol's messages to `path`: F are the frontend's, B the backend's."""
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with path.open("w") as file:
        driver.pgconn.trace(file.fileno())
        driver.pgconn.set_trace_flags(psycopg.pq.Trace.SUPPRESS_TIMESTAMPS)
        yield path
        driver.pgconn.untrace()


def round_trips(trace: Path) -> int:
    """How often the frontend had to wait: runs of its messages that are followed by an answer."""
    # A statement's own line breaks are lines here too.
    directions = [line[0] for line in trace.read_text().splitlines() if line[:2] in ("F\t", "B\t")]
    return sum(now == "B" and before == "F" for before, now in pairwise(directions))
