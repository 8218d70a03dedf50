"""Whatever text comes from outside is stored; what PostgreSQL refuses, NUL and half a surrogate pair, is escaped."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.model import ATTEMPTS_MAX, GateState, Outbox
from sqlalchemy_outbox.operations import EventFilter
from sqlalchemy_outbox.outcome import Rejected
from sqlalchemy_outbox.payload import storable
from tests.outbox.queue import Queue
from tests.outbox.test_gate import prepared_gate
from tests.outbox.test_worker import worker_of

UNSTORABLE = pytest.mark.parametrize("word", ["a\0b", "a\ud800b", "\udfff\0", "\U0001f600\0"], ids=ascii)


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """The log has the words as they came; what pytest's processes tell each other cannot hold them."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@UNSTORABLE
def test_words_of_a_person_who_holds_and_releases_are_kept(queue: Queue, word: str) -> None:
    operations.hold(queue.engine, queue.outbox, word, by=f"cli:{word}")
    held = operations.release(queue.engine, queue.outbox, by=f"cli:{word}")
    assert (held.reason, held.held_by) == (storable(word), f"cli:{storable(word)}")
    release, hold = operations.read_audit(queue.engine, queue.outbox)
    assert (hold.by, hold.reason) == (f"cli:{storable(word)}", storable(word))
    assert release.detail["was"] == storable(word)


@UNSTORABLE
def test_words_of_a_person_who_discards_are_kept(queue: Queue, word: str) -> None:
    [id_] = queue.put("driver-1")
    token, events = queue.claim()
    queue.settle(token, events, Rejected("no"))
    *_, last = operations.discard(queue.engine, queue.outbox, EventFilter(), by=word, reason=word)
    assert last.done == 1
    with queue.engine.connect() as connection:
        row = connection.execute(select(queue.outbox.records.discarded)).one()
    assert (row.id, row.discarded_by, row.reason) == (id_, storable(word), storable(word))
    [entry] = operations.read_audit(queue.engine, queue.outbox)
    assert (entry.by, entry.reason) == (storable(word), storable(word))


@UNSTORABLE
def test_what_a_person_looks_for_may_be_any_text(queue: Queue, word: str) -> None:
    [id_] = queue.put(f"driver {word}")
    for filter_ in (EventFilter(event_type=word), EventFilter(reason=word), EventFilter(subject=word)):
        assert operations.find_events(queue.engine, queue.outbox, filter_) == []
        assert operations.count(queue.engine, queue.outbox, filter_) == 0
    [found] = operations.find_events(queue.engine, queue.outbox, EventFilter(subject=f"driver {word}"))
    assert found.id == id_
    operations.reveal(queue.engine, queue.outbox, word, by=word)


@UNSTORABLE
async def test_reason_for_which_the_gate_shuts_is_kept(queue: Queue, word: str) -> None:
    gate = await prepared_gate(queue)
    await gate.hold(word)
    status = await gate.refresh()
    assert (status.state, status.reason) == (GateState.HELD, storable(word))


class Unspeakable(Exception):
    """Says what it is by raising."""

    def __str__(self) -> str:
        raise ValueError(self.args)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("a\0b\ud800"), "ValueError: a\\x00b\\ud800"),
        (Unspeakable("oh"), "Unspeakable: <exception str() failed>"),
        (ValueError("oh " * 1_000_000), "ValueError: oh oh"),
    ],
    ids=["unstorable", "unspeakable", "long"],
)
async def test_exception_of_a_destination_is_kept_and_charges_one_attempt(
    queue: Queue, error: Exception, says: str
) -> None:
    async def fail(claim: Claim, gate: Gate) -> dict[int, object]:
        raise error

    [id_] = queue.put("driver-1")
    await worker_of(queue, fail).drain()
    row = queue.row(id_)
    assert row.attempt_count == 1 < ATTEMPTS_MAX
    assert row.last_error.startswith(says)
