"""What a person may see and do: the one face of the outbox for a command line and a page, which hold no SQL.

A verb says `by` whom it is done; it is recorded in the audit's table by the transaction that does it, and logged. A
verb for many events does them in batches, one transaction each, as its iterator is asked for the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import Connection, Engine

from sqlalchemy_outbox.claiming import newer
from sqlalchemy_outbox.claiming.newer import Newer
from sqlalchemy_outbox.erasure import certificates, vacuuming
from sqlalchemy_outbox.erasure.certificates import Certificate
from sqlalchemy_outbox.gate import row as gate_row
from sqlalchemy_outbox.gate.row import GateStatus
from sqlalchemy_outbox.housekeeping import workers
from sqlalchemy_outbox.housekeeping.purge import Purge, count_purgeable
from sqlalchemy_outbox.housekeeping.workers import KnownWorker
from sqlalchemy_outbox.model import ERASURE, Event, GateState, Outbox
from sqlalchemy_outbox.operating import audit, ended_sessions, history, moves, search, series, turn
from sqlalchemy_outbox.operating import selection as selections
from sqlalchemy_outbox.operating.audit import Action, AuditEntry
from sqlalchemy_outbox.operating.history import Discarded, History, KeptDelivery
from sqlalchemy_outbox.operating.search import EventSummary, FailureReason, Found
from sqlalchemy_outbox.operating.selection import EventFilter, EventIds, Selection
from sqlalchemy_outbox.operating.series import Range, Series
from sqlalchemy_outbox.operating.status import Snapshot, Status, read_snapshot, read_status
from sqlalchemy_outbox.operating.turn import Turn
from sqlalchemy_outbox.settling import waits
from sqlalchemy_outbox.waking import wakeup

__all__ = [
    "AuditEntry",
    "Certificate",
    "Discarded",
    "EventFilter",
    "EventIds",
    "EventSummary",
    "FailureReason",
    "Found",
    "History",
    "KeptDelivery",
    "KnownWorker",
    "Progress",
    "Range",
    "Selection",
    "Series",
    "Snapshot",
    "Status",
    "Turn",
    "count",
    "count_found",
    "count_older_workers",
    "discard",
    "end_all_sessions",
    "end_session",
    "events_of",
    "export_events",
    "failure_reasons",
    "find_events",
    "hold",
    "is_session_ended",
    "note_provision",
    "purge",
    "read_audit",
    "read_certificates",
    "read_events",
    "read_history",
    "read_newer",
    "read_payloads",
    "read_queue",
    "read_series",
    "read_workers",
    "release",
    "retry",
    "reveal",
    "snapshot",
    "status",
    "try_now",
    "vacuum",
]

log = logging.getLogger(__name__)

# A transaction of this size holds its locks for a moment only.
BATCH_SIZE = 1000
# Batches that one export holds.
EXPORT_BATCHES = 100


@dataclass(frozen=True, slots=True)
class Progress:
    """How many events are done of those there were at the start."""

    done: int
    total: int


def status(engine: Engine, outbox: Outbox) -> Status:
    """Count the events by state, and read the gate."""
    with engine.connect() as connection:
        return read_status(connection, outbox)


def snapshot(engine: Engine, outbox: Outbox) -> Snapshot:
    """What changes by the second; may be asked for once a second."""
    with engine.connect() as connection:
        return read_snapshot(connection, outbox)


def read_series(engine: Engine, outbox: Outbox, range_: Range) -> Series:
    """What happened over a range of time: figures, closures of the gate, deploys and what people did."""
    with engine.connect() as connection:
        return series.read_series(connection, outbox, range_)


def read_workers(engine: Engine, outbox: Outbox) -> list[KnownWorker]:
    """The workers that live, and those that have within a week."""
    with engine.connect() as connection:
        return workers.read_workers(connection, outbox)


def find_events(
    engine: Engine, outbox: Outbox, filter_: EventFilter, *, before: int | None = None, limit: int = 50
) -> list[EventSummary]:
    """A page of events, newest first; the next one is `before` the last one's `id`."""
    with engine.connect() as connection:
        return search.find_events(connection, outbox, filter_, before, limit)


def count_found(
    engine: Engine, outbox: Outbox, filter_: EventFilter, *, looked_at_max: int = search.COUNTED_MAX
) -> Found:
    """How many events are like that; of each state the newest `looked_at_max` are looked at."""
    with engine.connect() as connection:
        return search.count_found(connection, outbox, filter_, looked_at_max)


def export_events(
    engine: Engine, outbox: Outbox, filter_: EventFilter, *, batch_size: int = BATCH_SIZE, batches: int = EXPORT_BATCHES
) -> Iterator[list[EventSummary]]:
    """Events of the filter, newest first, in so many batches at most; no transaction lasts beyond one."""
    before: int | None = None
    for _ in range(batches):
        batch = find_events(engine, outbox, filter_, before=before, limit=batch_size)
        if batch:
            yield batch
        if len(batch) < batch_size:
            return
        before = batch[-1].id


def read_queue(engine: Engine, outbox: Outbox, subject: str, *, limit: int = 50) -> list[EventSummary]:
    """The first `limit` open events of a subject, in the order in which they go."""
    with engine.connect() as connection:
        return turn.read_queue(connection, outbox, subject, limit)


def read_events(engine: Engine, outbox: Outbox, event_ids: Iterable[UUID]) -> list[EventSummary]:
    """Those of the events that exist, in order; discarded ones do not."""
    with engine.connect() as connection:
        return search.read_events(connection, outbox, event_ids)


def read_payloads(engine: Engine, outbox: Outbox, events: Iterable[EventSummary]) -> dict[int, str]:
    """What these events say, by `id`: with personal data, which is to be masked before anybody sees it."""
    with engine.connect() as connection:
        return search.read_payloads(connection, outbox, [event.id for event in events])


def events_of(engine: Engine, outbox: Outbox, subject: str, *, limit: int = 50) -> list[EventSummary]:
    """The newest `limit` events of a subject, in order."""
    with engine.connect() as connection:
        return search.events_of(connection, outbox, subject, limit)


def failure_reasons(engine: Engine, outbox: Outbox) -> list[FailureReason]:
    """Why events have failed, the most frequent reason first; at most `search.REASONS_MAX` of them."""
    with engine.connect() as connection:
        return search.failure_reasons(connection, outbox)


def read_history(engine: Engine, outbox: Outbox, event_id: UUID) -> History | None:
    """All that is known of an event, also of a discarded one; None when there is none."""
    with engine.connect() as connection:
        return history.read_history(connection, outbox, event_id)


def read_newer(engine: Engine, outbox: Outbox, event: Event) -> Iterator[Newer]:
    """What is newer than the event of its subject and may stand already, or waits; newest first, page by page."""
    before: int | None = None
    while True:
        with engine.connect() as connection:
            page = newer.read_newer(connection, outbox, event, before)
        yield from page
        if len(page) < newer.PAGE_SIZE:
            return
        before = page[-1].event.id


def read_audit(engine: Engine, outbox: Outbox, *, before: int | None = None, limit: int = 50) -> list[AuditEntry]:
    """A page of what people did, newest first; the next one is `before` the last one's `id`."""
    with engine.connect() as connection:
        return audit.read_audit(connection, outbox, before, limit)


def read_certificates(
    engine: Engine, outbox: Outbox, name: str | None = None, *, limit: int = 100
) -> list[Certificate]:
    """What is kept of erasures, of the subject of this name or of all; newest first."""
    with engine.connect() as connection:
        return certificates.read_certificates(connection, outbox, name, limit)


def count_older_workers(engine: Engine, outbox: Outbox) -> int:
    """How many workers were seen within the last hour that do not know what an erasure is."""
    with engine.connect() as connection:
        return workers.count_lacking(connection, outbox, ERASURE)


def vacuum(engine: Engine, outbox: Outbox) -> list[str]:
    """Have the database overwrite or let go of the space of what was deleted; in words, of what it could not."""
    return vacuuming.vacuum(engine, outbox)


def count(engine: Engine, outbox: Outbox, selection: Selection, types: Sequence[str] | None = None) -> int:
    """How many failed events a retry (of events of these `types`) or a discard would concern now."""
    with engine.connect() as connection:
        return selections.count_failed(connection, outbox, selection, types)


def retry(
    engine: Engine, outbox: Outbox, selection: Selection, types: Sequence[str], *, by: str, is_cautious: bool = False
) -> Iterator[Progress]:
    """Make failed events pending again with all their attempts.

    Others are left alone: those that have not failed, and those of no type in `types`, which no worker would claim and
    which would keep their subject's later events waiting. A retry never moves its subject backwards: see `newer`. A
    cautious one leaves alone what newer events that nobody can read may have set.
    """
    move = partial(moves.retry_failed, is_cautious=is_cautious)
    for progress in _in_batches(engine, outbox, selection, types, move, Action.RETRY, by, None):
        if progress.done:
            wakeup.wake(engine, outbox)
        yield progress


def discard(engine: Engine, outbox: Outbox, selection: Selection, *, by: str, reason: str) -> Iterator[Progress]:
    """Take failed events out of the outbox for good; each is kept whole beside it, until the retention has passed.

    Others are left alone. Later events of their subjects are not affected.
    """
    move = partial(moves.discard_failed, by=by, reason=reason)
    return _in_batches(engine, outbox, selection, None, move, Action.DISCARD, by, reason)


def purge(engine: Engine, outbox: Outbox, older_than: timedelta, *, by: str) -> Iterator[Progress]:
    """Delete what was delivered or discarded longer ago, as workers do that have nothing else to do."""
    with engine.connect() as connection:
        total = count_purgeable(connection, outbox, older_than)
    deleting = Purge(outbox, older_than, at_once=BATCH_SIZE)
    entry_id: int | None = None
    done = 0
    yield Progress(done, total)
    while not deleting.is_over:
        with engine.begin() as connection:
            batch = deleting.step(connection)
            if batch and entry_id is None:
                detail = {"older_than_seconds": older_than.total_seconds()}
                entry_id = audit.record(connection, outbox, Action.PURGE, by=by, detail=detail)
            if entry_id is not None:
                audit.add_count(connection, outbox, entry_id, batch)
        done += batch
        if batch:
            yield Progress(done, max(done, total))
    _log(Action.PURGE, by, done)


def hold(engine: Engine, outbox: Outbox, reason: str, *, by: str) -> None:
    """Let no delivery pass, of any process, until a person releases the gate; what is on the wire gets through."""
    with engine.begin() as connection:
        gate_row.hold(connection, outbox, reason, by)
        audit.record(connection, outbox, Action.HOLD, by=by, reason=reason)
    log.warning("Deliveries are held by %s: %s", by, reason, extra={"gate": "held", "by": by})


def release(engine: Engine, outbox: Outbox, *, by: str) -> GateStatus:
    """Open the gate, whoever or whatever shut it, and return what it was. What lasts shuts it again.

    Of an open one only the next request's time is set right, and nothing is recorded: nothing was done to deliveries.
    """
    with engine.begin() as connection:
        gate_row.lock(connection, outbox)
        before = gate_row.read_gate(connection, outbox)
        gate_row.release(connection, outbox)
        was_shut = before.state is not GateState.OPEN
        if was_shut:
            detail = {"state": before.state.value, "held_by": before.held_by, "was": before.reason}
            audit.record(connection, outbox, Action.RELEASE, by=by, detail=detail)
    if was_shut:
        log.info("Deliveries are released by %s.", by, extra={"gate": "open", "by": by})
    wakeup.wake(engine, outbox)
    return before


def try_now(engine: Engine, outbox: Outbox, *, by: str) -> bool:
    """Let the next delivery find out whether what shut the gate is over; false where it is open, or a person's hold."""
    with engine.begin() as connection:
        before = gate_row.read_gate(connection, outbox)
        is_tried = gate_row.end_wait(connection, outbox)
        if is_tried:
            detail = {"state": before.state.value, "was": before.reason}
            audit.record(connection, outbox, Action.TRY_NOW, by=by, detail=detail)
    if is_tried:
        log.info("Deliveries are tried again at once, by %s.", by, extra={"by": by})
        wakeup.wake(engine, outbox)
    return is_tried


def note_provision(engine: Engine, outbox: Outbox, done: Sequence[str], *, by: str) -> None:
    """Record what somebody had created at the destination, and let what waits for it be tried at once."""
    with engine.begin() as connection:
        audit.record(connection, outbox, Action.PROVISION, by=by, detail={"done": "; ".join(done)})
        gate_row.end_wait_for_probe(connection, outbox)
        waits.hurry(connection, outbox)
    log.info("Provisioned by %s: %d.", by, len(done), extra={"by": by})
    wakeup.wake(engine, outbox)


def reveal(engine: Engine, outbox: Outbox, subject: str, *, by: str) -> None:
    """Record that personal data of a subject is shown to somebody; say so before it is."""
    with engine.begin() as connection:
        subject = audit.known_as(connection, outbox, subject)
        audit.record(connection, outbox, Action.REVEAL, by=by, count=1, detail={"subject": subject})
    log.info("Personal data of %s is shown to %s.", subject, by, extra={"subject": subject, "by": by})


def end_session(engine: Engine, outbox: Outbox, session: str, ends_at: datetime, *, by: str) -> None:
    """Let nobody act in this session any more, in any process; it would have lasted until `ends_at`."""
    with engine.begin() as connection:
        ended_sessions.end(connection, outbox, session, ends_at)
    log.info("Operator %s signed out.", by, extra={"by": by})


def end_all_sessions(engine: Engine, outbox: Outbox, ends_at: datetime, *, by: str) -> None:
    """End each session that began by now, in any process: those that would last until `ends_at` or less."""
    with engine.begin() as connection:
        ended_sessions.end_all(connection, outbox, ends_at)
        audit.record(connection, outbox, Action.END_SESSIONS, by=by)
    log.warning("All sessions are ended by %s.", by, extra={"by": by})


def is_session_ended(engine: Engine, outbox: Outbox, session: str, ends_at: datetime) -> bool:
    with engine.connect() as connection:
        return ended_sessions.is_ended(connection, outbox, session, ends_at)


def _in_batches(
    engine: Engine,
    outbox: Outbox,
    selection: Selection,
    types: Sequence[str] | None,
    move: Callable[[Connection, Outbox, Sequence[int]], None],
    action: Action,
    by: str,
    reason: str | None,
) -> Iterator[Progress]:
    """Move the selection's failed events in the order of their ids, each at most once, in one entry of the audit."""
    with engine.connect() as connection:
        total = selections.count_failed(connection, outbox, selection, types)
    yield Progress(0, total)
    entry_id: int | None = None
    done = after = 0
    while True:
        with engine.begin() as connection:
            ids = moves.choose_failed(connection, outbox, selection, types, after=after, limit=BATCH_SIZE)
            if not ids:
                break
            move(connection, outbox, ids)
            if entry_id is None:
                detail = selection.as_json()
                entry_id = audit.record(connection, outbox, action, by=by, reason=reason, detail=detail)
            audit.add_events(connection, outbox, entry_id, ids)
        after = ids[-1]
        done += len(ids)
        yield Progress(done, total)
    _log(action, by, done)


def _log(action: Action, by: str, done: int) -> None:
    if done:
        log.info("%s by %s, events: %d.", action.capitalize(), by, done, extra={"action": str(action), "by": by})
