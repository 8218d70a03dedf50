"""What became of an event, step by step: requests that carried it, what people did, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from hubspot_sync.record import DELIVERED, REFUSED
from sqlalchemy_outbox.model import State
from sqlalchemy_outbox.operations import AuditEntry, History, KeptDelivery


@dataclass(frozen=True, slots=True)
class Step:
    """`words` are sentences, `facts` what HubSpot's support asks for; `tone` is how it went."""

    at: datetime
    title: str
    words: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    tone: str = ""


def steps_of(history: History) -> list[Step]:
    """In order of time, from the enqueueing on."""
    steps = [*map(_request, history.deliveries), *map(_act, history.audit), *_end(history)]
    return [Step(history.summary.created_at, "Enqueued"), *sorted(steps, key=lambda it: it.at)]


def _request(delivery: KeptDelivery) -> Step:
    status = "no answer" if delivery.status is None else f"HubSpot answered {delivery.status}"
    others = f"{delivery.events} events in it" if delivery.events != 1 else "alone"
    facts = [delivery.endpoint, others, f"{delivery.duration_ms} ms"]
    if delivery.category:
        facts.append(delivery.category)
    if delivery.correlation_id and delivery.correlation_id not in delivery.outcome_for_event:
        facts.append(f"correlation id {delivery.correlation_id}")
    words = [delivery.outcome_for_event]
    # What was delivered or refused has its own words; the request's may be about another event in it.
    if delivery.error and not delivery.outcome_for_event.startswith((DELIVERED, REFUSED)):
        words.append(delivery.error)
    return Step(delivery.started_at, f"Sent: {status}", tuple(words), tuple(facts), _tone(delivery.outcome_for_event))


def _tone(outcome: str) -> str:
    if outcome.startswith(DELIVERED):
        return "good"
    return "bad" if outcome.startswith(REFUSED) else "warning"


def _act(entry: AuditEntry) -> Step:
    count = f"with {entry.count - 1} more" if entry.count > 1 else ""
    words = tuple(words for words in (entry.reason or "", count) if words)
    return Step(entry.at, f"{entry.action.capitalize()} by {entry.by}", words)


def _end(history: History) -> Iterator[Step]:
    it = history.summary
    if it.state is State.DELIVERED and it.processed_at is not None:
        how = "Marked delivered by a dry run: nothing was sent" if it.dry_run else "Delivered"
        yield Step(it.processed_at, how, tone="" if it.dry_run else "good")
    elif it.failed_at is not None:
        words = () if history.deliveries else ("No request carried it: it could not be sent as it is.",)
        yield Step(it.failed_at, "Failed", words, tone="bad")
