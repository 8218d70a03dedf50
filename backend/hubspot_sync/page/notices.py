"""What stands on top of the page: what is wrong, since when, what it costs, and what to do about it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from hubspot_sync.entries import Entry
from hubspot_sync.page.notice import Act, Level, Notice
from hubspot_sync.page.shut_gate import about_gate
from hubspot_sync.runtime import WorkerState, WorkerStatus
from hubspot_sync.settings import HubSpotSettings
from sqlalchemy_outbox.model import GateState
from sqlalchemy_outbox.operations import KnownWorker, Snapshot

# A worker that is awake takes what is due within its poll of ten seconds; three of them leave room for a slow one.
STALLED_AFTER_SECONDS = 30.0
# After that nobody asks any more why a worker ended.
_DEAD_TOLD_FOR = timedelta(hours=1)


_RANKS = (Level.BAD, Level.WARNING, Level.GOOD, Level.INFO)


def notices(snapshot: Snapshot, worker: WorkerStatus, settings: HubSpotSettings) -> list[Notice]:
    """The worst first; at least one: that all is well, if nothing else is to be said."""
    found = [
        *about_gate(snapshot.gate),
        *_about_waits(snapshot),
        *_about_worker(snapshot, worker),
        *_about_settings(settings),
    ]
    if all(notice.level is Level.INFO for notice in found):
        found.append(Notice(Level.GOOD, "Deliveries go on", _who_works(snapshot, worker)))
    return sorted(found, key=lambda notice: _RANKS.index(notice.level))


def mark_of(shown: list[Notice]) -> str:
    """Differs when the notices do, so that a page knows when its own are out of date."""
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:12]


def _who_works(snapshot: Snapshot, worker: WorkerStatus) -> str:
    if snapshot.workers is None:
        is_apart = worker.state is WorkerState.ELSEWHERE
        return f"The gate is open, and {'workers run apart from this process' if is_apart else 'a worker runs here'}."
    alive = [known for known in snapshot.workers if known.is_alive]
    if not alive:
        return "The gate is open, and a worker is starting." if worker.state is WorkerState.RUNNING else ""
    return f"The gate is open, and {len(alive)} worker{' lives' if len(alive) == 1 else 's live'}."


def _about_waits(snapshot: Snapshot) -> Iterator[Notice]:
    for wait in snapshot.waiting:
        one = wait.events == 1
        names_remedy = "provision" in wait.reason
        yield Notice(
            Level.WARNING,
            f"{wait.events:,} event{' waits' if one else 's wait'} for what the account lacks",
            wait.reason,
            f"{'Provision it' if names_remedy else 'Mend it in HubSpot'}; then "
            f"{'it goes' if one else 'they go'} on within a minute. Others are delivered meanwhile.",
            (Act.PROVISION, Act.DOCTOR) if names_remedy else (Act.DOCTOR,),
            since=wait.since,
            entry=Entry.TYPE_WAITS,
        )


def _about_worker(snapshot: Snapshot, worker: WorkerStatus) -> Iterator[Notice]:
    match worker.state:
        case WorkerState.DEAD:
            yield Notice(
                Level.BAD,
                "The worker has ended",
                worker.reason,
                "Restart the application.",
                (Act.DOCTOR,),
                costs=True,
                entry=Entry.LAG,
            )
        case WorkerState.NOT_CONFIGURED:
            yield Notice(
                Level.BAD,
                "The worker did not start",
                worker.reason,
                "Set what is missing, and restart the application.",
                costs=True,
                entry=Entry.NOTHING_IS_SENT,
            )
        case WorkerState.DISABLED if not _has_living(snapshot):
            yield Notice(
                Level.WARNING,
                "No worker runs here",
                worker.reason,
                "Set HUBSPOT_ENABLED=true and restart; until then events are stored and wait.",
                costs=True,
                entry=Entry.NOTHING_IS_SENT,
            )
        case WorkerState.STOPPED:
            yield Notice(Level.WARNING, "The worker is stopped", worker.reason, costs=True)
        case WorkerState.ELSEWHERE if snapshot.workers is not None and not _has_living(snapshot):
            yield Notice(
                Level.BAD,
                "No worker lives",
                _last_sign(snapshot.workers),
                "Start a worker: the command `worker`.",
                (Act.DOCTOR,),
                since=max((known.seen_at for known in snapshot.workers), default=None),
                costs=True,
                entry=Entry.NOTHING_IS_SENT,
            )
        case WorkerState.ELSEWHERE if _is_stalled(snapshot) and not _has_living(snapshot):
            yield Notice(
                Level.BAD,
                "Events wait, and no worker takes them",
                worker.reason,
                "Start a worker, or look at the log of the one that should run.",
                (Act.DOCTOR,),
                costs=True,
                entry=Entry.LAG,
            )
        case WorkerState.RUNNING | WorkerState.ELSEWHERE if _is_stalled(snapshot):
            yield Notice(
                Level.WARNING,
                "Events wait, and nothing is delivered",
                "A worker runs, and the gate is open. Events of a type that it does not know wait for one that does.",
                "Look at the worker's log.",
                (Act.DOCTOR,),
                costs=True,
                entry=Entry.LAG,
            )
    yield from _about_the_dead(snapshot.workers or ())


def _about_the_dead(workers: tuple[KnownWorker, ...]) -> Iterator[Notice]:
    if not any(worker.is_alive for worker in workers):
        return
    now = datetime.now(UTC)
    for worker in workers:
        if worker.is_dead and now - worker.seen_at < _DEAD_TOLD_FOR:
            version = f" of version {worker.version}" if worker.version else ""
            yield Notice(
                Level.INFO,
                f"Worker {worker.name} ended without a word",
                f"It was one{version}. What it had in hand was taken over.",
                "Look at its log, or at why its machine ended it.",
                since=worker.seen_at,
            )


def _last_sign(workers: tuple[KnownWorker, ...]) -> str:
    last = max(workers, key=lambda worker: worker.seen_at, default=None)
    if last is None:
        return "None has been seen within a week."
    return f"{last.name} was the last one, and {'stopped in order' if last.stopped_at else 'ended without a word'}."


def _about_settings(settings: HubSpotSettings) -> Iterator[Notice]:
    if settings.hubspot_enabled and not settings.hubspot_send_live:
        yield Notice(
            Level.INFO,
            "This is a dry run",
            "Events are marked delivered, and nothing is sent to HubSpot, now or later.",
            "Set HUBSPOT_SEND_LIVE=true to send.",
            entry=Entry.DRY_RUN,
        )


def _has_living(snapshot: Snapshot) -> bool:
    return any(worker.is_alive for worker in snapshot.workers or ())


def _is_stalled(snapshot: Snapshot) -> bool:
    return (
        snapshot.gate.state is GateState.OPEN
        and (snapshot.oldest_pending_seconds or 0.0) > STALLED_AFTER_SECONDS
        and snapshot.delivered_last_minute == 0
        and snapshot.requests_last_minute == 0
    )
