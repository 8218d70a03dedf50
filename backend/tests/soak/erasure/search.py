"""Where anything of somebody forgotten is left: tables, a dump, files, requests, log lines, metrics."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine, select, text

from app.models import OUTBOX
from hubspot_sync.telemetry import Exposition
from tests.soak.erasure.leavers import Leaver
from tests.soak.erasure.recorder import Recorder


def in_tables(engine: Engine, leavers: Sequence[Leaver]) -> Iterator[str]:
    names = (
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        if engine.dialect.name == "sqlite"
        else "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    )
    with engine.connect() as connection:
        for name in connection.execute(text(names)).scalars().all():
            for row in connection.execute(text(f"SELECT * FROM {name}")):
                yield from _found(str(row).encode(), leavers, f"{name}: {row}")


def in_dump(pg_dump: Path, url: str, leavers: Sequence[Leaver]) -> Iterator[str]:
    dumped = subprocess.run([pg_dump, url], capture_output=True, check=True).stdout
    yield from _found(dumped, leavers, "the dump")


def in_files(engine: Engine, leavers: Sequence[Leaver]) -> Iterator[str]:
    """Of SQLite: the database, its write-ahead log, and whatever lies beside them."""
    file = Path(str(engine.url.database))
    for path in file.parent.glob(f"{file.name}*"):
        yield from _found(path.read_bytes(), leavers, path.name)


def in_metrics(engine: Engine, leavers: Sequence[Leaver]) -> Iterator[str]:
    shown, _ = Exposition(engine, OUTBOX).text()
    yield from _found(shown, leavers, "metrics")


def in_requests(recorder: Recorder, engine: Engine, leavers: Sequence[Leaver]) -> Iterator[str]:
    """Those that came after the erasure was done."""
    done_at = _done_at(engine)
    for leaver in leavers:
        for came_at, path, body in recorder.requests:
            is_late = came_at > done_at.get(_name_of(leaver), float("inf"))
            if is_late and any(word in body for word in leaver.words):
                yield f"a request to {path} is about {leaver.driver.id}, after it was erased: {body[:300]!r}"


def in_logs(logs: Iterable[Path], engine: Engine, leavers: Sequence[Leaver]) -> Iterator[str]:
    """Lines that were written after the erasure was done."""
    done_at = _done_at(engine)
    for path in logs:
        for line in path.read_text(errors="replace").splitlines():
            for leaver in leavers:
                if any(word in line.encode() for word in leaver.words):
                    written_at = datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
                    if written_at > done_at.get(_name_of(leaver), float("inf")):
                        yield f"{path.name} names {leaver.driver.id} after it was erased: {line[:300]}"


def _done_at(engine: Engine) -> dict[str, float]:
    """By the drivers' names; whose erasure is not done has none."""
    e = OUTBOX.erasures.c
    with engine.connect() as connection:
        rows = connection.execute(select(e.name, e.cleaned_at).where(e.cleaned_at.is_not(None)).order_by(e.id)).all()
    return {row.name: row.cleaned_at.timestamp() for row in rows}


def _name_of(leaver: Leaver) -> str:
    return str(OUTBOX.names.of(leaver.driver.id))


def _found(content: bytes, leavers: Sequence[Leaver], where: str) -> Iterator[str]:
    for leaver in leavers:
        if any(word in content for word in leaver.words):
            yield f"{leaver.driver.id} is left in {where[:500]}"
