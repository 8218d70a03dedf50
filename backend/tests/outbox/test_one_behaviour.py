"""One behaviour, two databases: a state machine drives SQLite and PostgreSQL side by side with a model of a few lines.

The model says what the design says: who may be claimed, who is charged, what a lost lease costs. After every step both
databases must hold exactly what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)
from sqlalchemy import Engine, Table, create_engine, delete, select
from sqlalchemy.orm import Session

from sqlalchemy_outbox.database.sqlite import configure_engine
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.model import ATTEMPTS_MAX, Event
from sqlalchemy_outbox.outcome import Delivered, Outcome, Postponed, Rejected, Retry, Waiting
from sqlalchemy_outbox.settling import waits
from tests.outbox.conftest import METADATA, OUTBOX
from tests.outbox.queue import TYPES, Queue
from tests.state_machines import run_state_machine

# Beyond every backoff and lease.
LONG = timedelta(minutes=10)
SUBJECTS = st.sampled_from("ab")
WAITING = Waiting("a thing", "the thing is missing")
OUTCOMES = st.sampled_from([Delivered(), Delivered(), Retry("no"), Rejected("never"), Postponed(), WAITING])


@dataclass(frozen=True)
class Modelled:
    """What the model knows of an event; ids are the same in both databases, as nothing else uses the sequence."""

    id: int
    subject: str
    state: str = "pending"
    attempts: int = 0
    is_backing_off: bool = False
    token: str | None = None
    is_retried: bool = False
    is_in_doubt: bool = False
    is_waiting: bool = False
    # It waits, or has waited.
    is_apart: bool = False

    @property
    def is_due(self) -> bool:
        return self.state == "pending" and not self.is_backing_off and not self.is_waiting

    @property
    def is_open(self) -> bool:
        return self.state in ("pending", "claimed")


@dataclass(frozen=True)
class Held:
    """A claim as its worker knows it: whether it still holds is for the queue to say."""

    token: str
    ids: tuple[int, ...]


class Machine(RuleBasedStateMachine):
    claims = Bundle("claims")
    engines: tuple[Engine, Engine]

    def __init__(self) -> None:
        super().__init__()
        self.queues = [Queue(engine, OUTBOX) for engine in self.engines]
        self.model: dict[int, Modelled] = {}
        self.discarded: dict[int, Modelled] = {}
        for engine in self.engines:
            with engine.begin() as connection:
                for table in (OUTBOX.events, OUTBOX.leases, OUTBOX.waits, OUTBOX.records.discarded):
                    connection.execute(delete(table))
        self.offsets = [max(queue.put("offset")) for queue in self.queues]
        for queue in self.queues:
            with queue.engine.begin() as connection:
                connection.execute(delete(OUTBOX.events))
        self.count = 0

    # What a person and an application do.

    @rule(subjects=st.lists(SUBJECTS, min_size=1, max_size=4))
    def enqueue(self, subjects: list[str]) -> None:
        for queue in self.queues:
            queue.put(*subjects)
        for subject in subjects:
            self.count += 1
            self.model[self.count] = Modelled(self.count, subject)

    @rule(subject=SUBJECTS)
    def roll_back(self, subject: str) -> None:
        for queue in self.queues:
            with Session(queue.engine) as session:
                enqueue(session, OUTBOX, TYPES[0], subject, {})
                session.rollback()
                savepoint = session.begin_nested()
                enqueue(session, OUTBOX, TYPES[0], subject, {})
                savepoint.rollback()
                session.commit()

    @precondition(lambda self: self.has("failed"))
    @rule(data=st.data())
    def retry_by_hand(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from([it.id for it in self.model.values() if it.state == "failed"]))
        for n, queue in enumerate(self.queues):
            queue.retry(id_ + self.offsets[n])
        self.change(id_, state="pending", attempts=0, is_backing_off=False, is_retried=True, is_apart=False)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def discard_by_hand(self, data: st.DataObject) -> None:
        """Also what has not failed: then nothing must happen."""
        id_ = data.draw(st.sampled_from(sorted(self.model)))
        is_failed = self.model[id_].state == "failed"
        assert [queue.discard(id_ + self.offsets[n]) for n, queue in enumerate(self.queues)] == [is_failed] * 2
        if is_failed:
            self.discarded[id_] = self.model.pop(id_)

    @precondition(lambda self: self.has("delivered") or self.discarded)
    @rule()
    def purge(self) -> None:
        due = [it.id for it in self.model.values() if it.state == "delivered" and not self.is_needed(it)]
        counts = [queue.purge(timedelta(0), limit=1000) for queue in self.queues]
        assert counts == [len(due) + len(self.discarded)] * 2
        for id_ in due:
            del self.model[id_]
        self.discarded.clear()

    @precondition(lambda self: any(it.is_waiting for it in self.model.values()))
    @rule()
    def release(self) -> None:
        """What events wait for is there."""
        for queue in self.queues:
            with queue.engine.begin() as connection:
                waits.note(connection, OUTBOX, {WAITING.key: WAITING.reason})
                assert waits.release(connection, OUTBOX, WAITING.key) is False
        for id_ in self.model:
            self.change(id_, is_waiting=False)

    @rule()
    def pass_time(self) -> None:
        """Backoffs are over and leases have run out, and nobody has noticed yet."""
        for queue in self.queues:
            queue.pass_time(LONG)
        for id_ in self.model:
            self.change(id_, is_backing_off=False)

    # What workers do.

    @rule(target=claims, limit=st.integers(1, 6))
    def claim(self, limit: int) -> object:
        token = uuid4().hex
        expected = self.claimable(limit)
        for n, queue in enumerate(self.queues):
            _, events = queue.claim(token, limit)
            assert [event.id - self.offsets[n] for event in events] == expected
        for id_ in expected:
            self.change(id_, state="claimed", token=token)
        return Held(token, tuple(expected)) if expected else multiple()

    @rule(held=consumes(claims), outcome=OUTCOMES)
    def settle(self, held: Held, outcome: Outcome) -> None:
        """Also after the lease was lost: then it must settle nothing."""
        still_held = [id_ for id_ in held.ids if id_ in self.model and self.model[id_].token == held.token]
        for n, queue in enumerate(self.queues):
            settled = queue.settle(held.token, self.events(n, held.ids), outcome)
            assert sorted(id_ - self.offsets[n] for id_ in settled) == still_held
        charged: set[str] = set()
        for id_ in still_held:
            self.settle_one(id_, Postponed() if self.model[id_].subject in charged else outcome, charged)

    @precondition(lambda self: self.has("pending"))
    @rule(limit=st.integers(1, 6), outcome=OUTCOMES)
    def deliver(self, limit: int, outcome: Outcome) -> None:
        """What a worker does nearly always: claim and settle without a mishap, when the backoffs are over."""
        self.pass_time()
        held = self.claim(limit)
        if isinstance(held, Held):
            self.settle(held, outcome)

    @precondition(lambda self: self.has("pending") and self.has("failed"))
    @rule(target=claims, data=st.data(), limit=st.integers(1, 6))
    def retry_during_a_delivery(self, data: st.DataObject, limit: int) -> object:
        """A person retries while a worker has younger events in hand, and another worker looks for more."""
        first = self.claim(limit)
        self.retry_by_hand(data)
        second = self.claim(limit)
        return multiple(*(it for it in (first, second) if isinstance(it, Held)))

    @precondition(lambda self: self.has("claimed"))
    @rule()
    def lose_leases(self) -> None:
        """Every claim's worker dies, time passes, and another worker notices."""
        for queue in self.queues:
            queue.pass_time(LONG)
            queue.charge_lost_leases()
        charged: set[str] = set()
        for it in sorted(self.model.values(), key=lambda it: it.id):
            self.change(it.id, is_backing_off=False, is_in_doubt=it.is_in_doubt or it.state == "claimed")
            if it.state == "claimed":
                self.settle_one(it.id, Postponed() if it.subject in charged else Retry("lost"), charged)

    @rule(held=consumes(claims))
    def stop(self, held: Held) -> None:
        """A worker that stops hands back, uncharged, what it still holds."""
        for queue in self.queues:
            queue.hand_back(held.token)
        for it in list(self.model.values()):
            if it.token == held.token:
                self.change(it.id, state="pending", token=None)

    @invariant()
    def databases_hold_what_the_model_holds(self) -> None:
        for table, model in ((OUTBOX.events, self.model), (OUTBOX.records.discarded, self.discarded)):
            in_order = sorted(model.values(), key=lambda it: it.id)
            expected = [(it.id, it.subject, it.state, it.attempts) for it in in_order]
            for n, queue in enumerate(self.queues):
                assert stored(queue, table, self.offsets[n]) == expected

    @invariant()
    def leases_cover_what_is_claimed(self) -> None:
        expected: dict[str, list[int]] = {}
        for it in sorted(self.model.values(), key=lambda it: it.id):
            if it.token is not None:
                expected.setdefault(it.token, []).append(it.id)
        for n, queue in enumerate(self.queues):
            with queue.engine.connect() as connection:
                leases = connection.execute(select(OUTBOX.leases.c.token, OUTBOX.leases.c.event_ids)).all()
            assert {token: sorted(id_ - self.offsets[n] for id_ in ids) for token, ids in leases} == expected

    # The model.

    def has(self, state: str) -> bool:
        return any(it.state == state for it in self.model.values())

    def change(self, id_: int, **values: object) -> None:
        self.model[id_] = replace(self.model[id_], **values)  # type: ignore[arg-type]

    def settle_one(self, id_: int, outcome: Outcome, charged: set[str]) -> None:
        it = self.model[id_]
        match outcome:
            case Delivered():
                self.change(id_, state="delivered", token=None)
            case Rejected():
                self.change(id_, state="failed", attempts=ATTEMPTS_MAX, token=None)
            case Postponed():
                self.change(id_, state="pending", token=None)
            case Waiting():
                self.change(id_, state="pending", token=None, is_waiting=True, is_apart=True)
            case Retry():
                charged.add(it.subject)
                attempts = it.attempts + 1
                is_spent = attempts >= ATTEMPTS_MAX
                state = "failed" if is_spent else "pending"
                self.change(id_, state=state, attempts=attempts, is_backing_off=not is_spent, token=None)

    def claimable(self, limit: int) -> list[int]:
        """What is in line first; if there is nothing to claim, what comes again after it was set apart."""
        by_subject: dict[str, list[Modelled]] = {}
        for it in sorted(self.model.values(), key=lambda it: it.id):
            if it.is_open:
                by_subject.setdefault(it.subject, []).append(it)
        in_line = [its for its in by_subject.values() if not its[0].is_apart and self.is_claimable_head(its)]
        return self.of_runs(in_line, limit) or self.of_runs(self.again(list(by_subject.values())), limit)

    def again(self, subjects: list[list[Modelled]]) -> list[list[Modelled]]:
        """Those whose first event comes again; if that of the oldest was charged, this one only."""
        due = [its for its in subjects if its[0].is_due and (its[0].is_apart or its[0].is_retried)]
        due.sort(key=lambda its: its[0].id)
        chosen = due[:1] + [its for its in due[1:] if not (due[0][0].attempts or its[0].attempts)]
        return [its for its in chosen if self.is_claimable_head(its)]

    def of_runs(self, runs: list[list[Modelled]], limit: int) -> list[int]:
        """The heads that are due, each with the run behind it; a charged one by itself, when it is the oldest.

        That is without its run, unless it was charged once and the run may have been applied as a whole.
        """
        runs.sort(key=lambda its: its[0].id)
        if runs and runs[0][0].attempts:
            goes_whole = runs[0][0].attempts == 1 and runs[0][0].is_in_doubt
            return self.run(runs[0])[:limit] if goes_whole else [runs[0][0].id]
        claimed = [id_ for its in runs[:limit] if not its[0].attempts for id_ in self.run(its)]
        return sorted(claimed[:limit])

    def run(self, its: list[Modelled]) -> list[int]:
        """The head, and what is due behind it and was not charged; of those in line none if some were set apart."""
        if not its[0].is_apart and any(it.is_apart for it in its):
            return [its[0].id]
        followers = takewhile(lambda it: it.is_due and not it.attempts, its[1:])
        return [its[0].id, *(it.id for it in followers)]

    def is_claimable_head(self, its: list[Modelled]) -> bool:
        return its[0].is_due and not (its[0].is_retried and any(it.state == "claimed" for it in its))

    def is_needed(self, delivered: Modelled) -> bool:
        """A delivered event stays while an older one of its subject has failed or is open."""
        return any(
            it.subject == delivered.subject and it.id < delivered.id and it.state != "delivered"
            for it in self.model.values()
        )

    def events(self, n: int, ids: tuple[int, ...]) -> list[Event]:
        """The events of a claim as its worker got them."""
        return [self.queues[n].event(id_ + self.offsets[n]) for id_ in ids if id_ in self.model]


def stored(queue: Queue, table: Table, offset: int) -> list[tuple[int, str, str, int]]:
    with queue.engine.connect() as connection:
        rows = connection.execute(select(table).order_by(table.c.id)).all()
    return [(row.id - offset, row.subject, state_of(row), row.attempt_count) for row in rows]


def state_of(row: object) -> str:
    if row.processed_at is not None:  # type: ignore[attr-defined]
        return "delivered"
    if row.failed_at is not None:  # type: ignore[attr-defined]
        return "failed"
    return "claimed" if row.claim_token is not None else "pending"  # type: ignore[attr-defined]


@pytest.fixture
def engines(postgres_url: str) -> Iterator[tuple[Engine, Engine]]:
    with TemporaryDirectory() as folder:
        engines = (create_engine(f"sqlite:///{Path(folder) / 'outbox.db'}"), create_engine(postgres_url))
        for engine in engines:
            configure_engine(engine)
            METADATA.create_all(engine)
        yield engines
        for engine in engines:
            engine.dispose()


def test_both_databases_behave_as_the_model_says(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Time passes by the machine's own rule only.
    monkeypatch.setattr("sqlalchemy_outbox.settling.backoff.BACKOFF_BASE", LONG / 2)
    monkeypatch.setattr("sqlalchemy_outbox.settling.backoff.BACKOFF_MAX", LONG / 2)
    Machine.engines = engines
    run_state_machine(Machine, examples=8, steps=40, variable="STATE_MACHINE_EXAMPLES")
