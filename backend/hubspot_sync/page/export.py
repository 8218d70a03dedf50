"""Events of a filter as a file: CSV for a spreadsheet, JSON for a script. No payload, so no personal data."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hubspot_sync.redaction import redact
from sqlalchemy_outbox.operations import EventSummary

_COLUMNS = (
    "event_id",
    "state",
    "event_type",
    "subject",
    "created_at",
    "due_at",
    "processed_at",
    "failed_at",
    "attempt_count",
    "last_error",
    "dry_run",
)
# A spreadsheet takes a cell that begins so for a formula, and carries it out.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Format:
    name: str
    media_type: str


CSV, JSON = Format("csv", "text/csv; charset=utf-8"), Format("json", "application/json")
FORMATS = {known.name: known for known in (CSV, JSON)}


def lines_of(batches: Iterable[list[EventSummary]], format_: Format) -> Iterator[bytes]:
    """The file, batch by batch."""
    lines = _as_csv(batches) if format_ is CSV else _as_json(batches)
    # A subject may hold half a surrogate pair, which UTF-8 does not have.
    return (text.encode(errors="backslashreplace") for text in lines)


def _as_csv(batches: Iterable[list[EventSummary]]) -> Iterator[str]:
    yield f"{','.join(_COLUMNS)}\r\n"
    for batch in batches:
        text = io.StringIO()
        csv.writer(text).writerows([_cell(row[name]) for name in _COLUMNS] for row in map(_row, batch))
        yield text.getvalue()


def _as_json(batches: Iterable[list[EventSummary]]) -> Iterator[str]:
    """One array, an event a line."""
    before = "[\n"
    for batch in batches:
        yield before + ",\n".join(json.dumps(_row(event)) for event in batch)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _row(event: EventSummary) -> dict[str, object]:
    row = event.as_json()
    return row | {"last_error": None if event.last_error is None else redact(event.last_error)}


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
