"""What stands on top of the page: how gate and worker are, and what to do about it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from hubspot_sync.runtime import WorkerState, WorkerStatus
from hubspot_sync.settings import HubSpotSettings
from hubspot_sync.weather import ONE_CONTACT
from sqlalchemy_outbox.model import GateState
from sqlalchemy_outbox.operations import Pulse

# A worker that is awake takes what is due within its poll of ten seconds; three of them leave room for a slow one.
STALLED_AFTER_SECONDS = 30.0


class Level(StrEnum):
    GOOD = "good"
    INFO = "info"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Notice:
    """`words` say what is the matter, `remedy` what a person should do."""

    level: Level
    title: str
    words: str = ""
    remedy: str = ""
    can_release: bool = False


def notices(pulse: Pulse, worker: WorkerStatus, settings: HubSpotSettings) -> list[Notice]:
    """At least one: that all is well, if nothing else is to be said."""
    found = [*_about_gate(pulse), *_about_waits(pulse), *_about_worker(pulse, worker), *_about_settings(settings)]
    if all(it.level is Level.INFO for it in found):
        words = "The gate is open, and a worker runs here."
        if worker.state is WorkerState.ELSEWHERE:
            words = "The gate is open. Workers run apart from this process."
        found.insert(0, Notice(Level.GOOD, "Deliveries go on", words))
    return found


def mark_of(shown: list[Notice]) -> str:
    """Differs when the notices do, so that a page knows when its own are out of date."""
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:12]


def _about_gate(pulse: Pulse) -> Iterator[Notice]:
    gate = pulse.gate
    reason = gate.reason or ""
    if gate.state is GateState.HELD and gate.held_by is not None:
        yield Notice(
            Level.WARNING,
            f"{gate.held_by.partition(':')[2] or gate.held_by} holds deliveries",
            reason,
            "Events wait, and none loses an attempt. Nothing but a release lets them go on.",
            can_release=True,
        )
    elif gate.state is GateState.HELD:
        yield Notice(
            Level.BAD,
            "Deliveries are held",
            reason,
            "Once that is mended, restart the worker, or wait: it tries again every 60 s. No event loses an attempt.",
        )
    elif gate.state is GateState.THROTTLED and reason.startswith("outage"):
        yield Notice(
            Level.WARNING,
            "One contact's requests get no answer" if ONE_CONTACT in reason else "HubSpot does not answer",
            reason,
            "Nothing to do here: it is tried again, at most 60 s apart, and no event loses an attempt.",
        )
    elif gate.state is GateState.THROTTLED:
        until = f" until {gate.until:%H:%M:%S} UTC" if gate.until else ""
        yield Notice(
            Level.WARNING,
            f"Deliveries are throttled{until}",
            reason,
            "They go on by themselves. If it comes again and again, lower HUBSPOT_REQUESTS_PER_SECOND.",
        )


def _about_waits(pulse: Pulse) -> Iterator[Notice]:
    for wait in pulse.waiting:
        yield Notice(
            Level.WARNING,
            f"{wait.events} event{'' if wait.events == 1 else 's'} wait{'s' if wait.events == 1 else ''}",
            wait.reason,
            "Once that is mended, they go on by themselves within a minute. Other events are delivered meanwhile.",
        )


def _about_worker(pulse: Pulse, worker: WorkerStatus) -> Iterator[Notice]:
    match worker.state:
        case WorkerState.DEAD:
            yield Notice(Level.BAD, "The worker has ended", worker.reason, "Restart the application.")
        case WorkerState.NOT_CONFIGURED:
            yield Notice(Level.BAD, "The worker did not start", worker.reason, "Then restart the application.")
        case WorkerState.DISABLED:
            yield Notice(
                Level.WARNING,
                "No worker runs here",
                worker.reason,
                "Events are stored and wait. Set HUBSPOT_ENABLED=true and restart.",
            )
        case WorkerState.STOPPED:
            yield Notice(Level.WARNING, "The worker is stopped", worker.reason)
        case WorkerState.ELSEWHERE if _is_stalled(pulse):
            yield Notice(
                Level.BAD,
                "Events wait, and no worker takes them",
                worker.reason,
                "Start a worker, or look at the log of the one that should run.",
            )
        case WorkerState.RUNNING if _is_stalled(pulse):
            yield Notice(
                Level.WARNING,
                "Events wait, and nothing is delivered",
                "The worker runs, and the gate is open.",
                "Look at the application's log. Events of a type that it does not know wait for one that does.",
            )


def _about_settings(settings: HubSpotSettings) -> Iterator[Notice]:
    if settings.hubspot_enabled and not settings.hubspot_send_live:
        yield Notice(
            Level.INFO,
            "This is a dry run",
            "Events are marked delivered, and nothing is sent to HubSpot, now or later.",
            "Set HUBSPOT_SEND_LIVE=true to send.",
        )


def _is_stalled(pulse: Pulse) -> bool:
    return (
        pulse.gate.state is GateState.OPEN
        and (pulse.oldest_pending_seconds or 0.0) > STALLED_AFTER_SECONDS
        and pulse.delivered_last_minute == 0
        and pulse.requests_last_minute == 0
    )
