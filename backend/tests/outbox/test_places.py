"""Where a subject was delivered to is kept with its settle, by the statement that settles."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from sqlalchemy import Engine, create_engine, select

from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.outcome import Delivered, Outcome, Place, Rejected
from tests.outbox.plans import sent_by
from tests.outbox.queue import Queue


def test_last_delivery_of_a_held_lease_is_kept_and_nothing_else(engine: Engine, outbox: Outbox) -> None:
    queue = Queue(engine, outbox)
    ids = queue.put("ada", "eve", "bob", "bob")
    token, events = queue.claim()
    places = [Delivered(place=Place("7", "k")), Delivered(place=Place("8", "k"))]
    outcomes: list[Outcome] = [Delivered(dry_run=True), Rejected("no"), *places]
    queue.settle_each(token, events, dict(zip(ids, outcomes, strict=True)))
    assert kept(engine, outbox) == {"bob": ("8", "k", False)}
    queue.put("bob")
    late, events = queue.claim()
    queue.pass_time(timedelta(minutes=1))
    queue.charge_lost_leases()
    assert queue.settle(late, events, Delivered(place=Place("9", "k"))) == set()
    assert kept(engine, outbox) == {"bob": ("8", "k", False)}
    queue.pass_time(timedelta(minutes=10))
    queue.settle(*queue.claim(), Delivered(place=Place("9", "other")))
    assert kept(engine, outbox) == {"bob": ("9", "other", True)}


def test_places_cost_no_statement_on_postgresql(outbox_postgres_url: str, outbox: Outbox) -> None:
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, outbox)
    sent = []
    for outcome in (Delivered(), Delivered(place=Place("7", "k"))):
        queue.put("ada", "eve")
        token, events = queue.claim()
        sent.append(len(sent_by(engine, partial(queue.settle, token, events, outcome))))
    engine.dispose()
    assert sent[0] == sent[1]


def kept(engine: Engine, outbox: Outbox) -> dict[str, tuple[str, str, bool]]:
    """By their subjects: record, key, and whether it was delivered later than first."""
    with engine.connect() as connection:
        return {
            it.subject: (it.record_id, it.key_property, it.last_delivered_at > it.first_delivered_at)
            for it in connection.execute(select(outbox.subjects))
        }
