"""A contact never goes backwards: a state machine drives both databases, real deliveries and the sandbox's contacts.

Each event says its own number in every property that it sets, so a contact shows which event set each of them last.
That number never falls, whatever happens: crashes between an answer and its settle, lost leases and answers, refusals,
retries and discards by hand, purges, and workers of two releases of which one cannot read all events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated, Any
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
from sqlalchemy import Engine, create_engine, delete, select
from sqlalchemy.orm import Session

from hubspot_sandbox import Sandbox
from hubspot_sync.client import HubSpotClient
from hubspot_sync.delivery import LiveDelivery
from hubspot_sync.event import (
    Catalog,
    ContactProperty,
    EmailAddress,
    LifecycleEvent,
    PropertyGroup,
    PropertyType,
    Reference,
)
from hubspot_sync.provisioning import carry_out, plan_provisioning
from sqlalchemy_outbox.claiming import newer
from sqlalchemy_outbox.database.sqlite import configure_engine
from sqlalchemy_outbox.database.transaction import transact
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.housekeeping import workers
from sqlalchemy_outbox.lease import LEASE, Lease
from sqlalchemy_outbox.model import ATTEMPTS_MAX, Event
from sqlalchemy_outbox.outcome import Outcome, Postponed
from sqlalchemy_outbox.settling import leases, settlement
from tests.hubspot.conftest import LONG, PORTAL_ID, settings_for
from tests.outbox.conftest import METADATA, OUTBOX
from tests.outbox.queue import Queue
from tests.state_machines import run_state_machine

USER_ID = ContactProperty("said_by", "Said by", PropertyType.STRING, is_unique=True)
EMAIL = ContactProperty("email", "Email", PropertyType.STRING, is_standard=True, is_personal=True)
A, B, C = (ContactProperty(f"said_{name}", f"Said {name}", PropertyType.NUMBER) for name in "abc")
PROPERTIES = [EMAIL.name, A.name, B.name, C.name]


class Said(LifecycleEvent):
    user_id: Annotated[Reference, USER_ID]
    email: Annotated[EmailAddress | None, EMAIL] = None
    a: Annotated[int | None, A] = None
    b: Annotated[int | None, B] = None
    c: Annotated[int | None, C] = None


class First(Said):
    event_type = "first"


class Second(Said):
    event_type = "second"


class OfTheNewRelease(Said):
    event_type = "of_the_new_release"


GROUP = PropertyGroup("said", "Said")
NEW = Catalog((First, Second, OfTheNewRelease), subject_field="user_id", email_field="email", group=GROUP)
OLD = Catalog((First, Second), subject_field="user_id", email_field="email", group=GROUP)

SUBJECTS = st.sampled_from(["ada", "ada", "ada", "grace"])
CATALOGS = {"new": NEW, "old": OLD}
RELEASES = st.sampled_from(["new", "new", "old"])
KINDS = st.sampled_from(["first", "first", "second", "of_the_new_release"])
SAYS = st.sets(st.sampled_from(["email", "a", "b", "c"]), min_size=1)
# What befalls the request of a delivery, as the sandbox calls it.
FAULTS = st.sampled_from([None, None, None, "reset_after_applying", "reset", "input_refused"])


@dataclass(frozen=True)
class Held:
    """A claim on each database, by the release that made it."""

    release: str
    token: str
    subjects: frozenset[str]


@dataclass
class Side:
    """One database, and the contacts of its subjects: their names begin with its own."""

    name: str
    engine: Engine
    sandbox: Sandbox
    client: HubSpotClient
    queue: Queue = field(init=False)
    claims: dict[str, list[Event]] = field(default_factory=dict)
    seen: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = Queue(self.engine, OUTBOX, tuple(NEW.types))

    def enqueue(self, subject: str, event_type: str, said: set[str], number: int) -> None:
        values: dict[str, object] = dict.fromkeys(said, number)
        if "email" in said:
            values["email"] = f"{self.name}-{subject}-{number}@example.com"
        payload = {"user_id": f"{self.name}-{subject}", **values}
        with Session(self.engine) as session, session.begin():
            enqueue(session, OUTBOX, event_type, payload["user_id"], payload)

    def claim(self, release: str, token: str, limit: int) -> frozenset[str]:
        with self.engine.begin() as connection:
            scan = self.queue.scan
            events = scan.claim(connection, types=CATALOGS[release].types, token=token, lease=LEASE, limit=limit)
        self.claims[token] = events
        return frozenset(event.subject.removeprefix(f"{self.name}-") for event in events)

    async def deliver(self, held: Held, fault: str | None) -> Mapping[int, Outcome]:
        """As a worker does that has just started, up to the settle."""
        gate = Gate(OUTBOX, self.engine, 10_000)
        delivery = LiveDelivery(self.client, CATALOGS[held.release], PORTAL_ID, daily_reserve=0, random=Random(1))
        await gate.prepare()
        await delivery.verify_account(gate)

        async def read_newer(first: Event, before: int | None) -> list[newer.Newer]:
            return await transact(self.engine, newer.read_newer, OUTBOX, first, before)

        async def known_types() -> frozenset[str]:
            return await transact(self.engine, workers.known_types, OUTBOX)

        lease = Lease(held.token, asyncio.get_running_loop().time() + LEASE.total_seconds())
        claim = Claim(lease, self.claims[held.token], read_newer=read_newer, known_types=known_types)
        if fault is not None:
            self.sandbox.faults.add(fault, path="/batch/upsert", requests=1)
        try:
            return await delivery(claim, gate)
        finally:
            self.sandbox.faults.clear()

    def settle(self, token: str, outcomes: Mapping[int, Outcome]) -> None:
        rows = settlement.settle(self.claims.pop(token), outcomes, self.queue.random)
        with self.engine.begin() as connection:
            leases.settle(connection, OUTBOX, token, rows)

    def events(self) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(select(OUTBOX.events).order_by(OUTBOX.events.c.id)))

    def open_gate(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(delete(OUTBOX.gate))

    def contact(self, subject: str) -> dict[str, int]:
        """The number of the event that set each property last."""
        found = self.sandbox.contact(said_by=f"{self.name}-{subject}")
        properties = {} if found is None else found["properties"]
        numbers = {name: value for name in PROPERTIES if (value := properties.get(name))}
        return {name: int(value.partition("@")[0].rpartition("-")[2]) for name, value in numbers.items()}


class Machine(RuleBasedStateMachine):
    claims = Bundle("claims")
    sides: list[Side]
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.has_given_up = False
        for side in self.sides:
            side.sandbox.run(lambda account: account.contacts.clear())
            side.claims.clear()
            side.seen.clear()
            with side.engine.begin() as connection:
                for table in (OUTBOX.events, OUTBOX.leases, OUTBOX.gate, OUTBOX.workers, OUTBOX.records.discarded):
                    connection.execute(delete(table))
        self.deploy("new")

    @rule(subject=SUBJECTS, said=st.lists(st.tuples(KINDS, SAYS), min_size=1, max_size=3))
    def enqueue(self, subject: str, said: list[tuple[str, set[str]]]) -> None:
        for event_type, names in said:
            self.number += 1
            for side in self.sides:
                side.enqueue(subject, event_type, names, self.number)

    @rule(release=RELEASES)
    def deploy(self, release: str) -> None:
        """Only workers of this release have been seen lately."""
        for side in self.sides:
            with side.engine.begin() as connection:
                connection.execute(delete(OUTBOX.workers))
                workers.note_alive(connection, OUTBOX, "worker", CATALOGS[release].types)

    @rule(target=claims, release=RELEASES, limit=st.integers(1, 6))
    def claim(self, release: str, limit: int) -> object:
        token = uuid4().hex
        first, second = (side.claim(release, token, limit) for side in self.sides)
        assert first == second
        return Held(release, token, first) if first else multiple()

    @rule(held=consumes(claims), fault=FAULTS)
    def deliver(self, held: Held, fault: str | None) -> None:
        for side in self.sides:
            if held.token in side.claims:
                side.settle(held.token, self.runner.run(side.deliver(held, fault)))
                side.open_gate()

    @rule(held=consumes(claims), fault=FAULTS)
    def die(self, held: Held, fault: str | None) -> None:
        """Between HubSpot's answer and the settle. Nobody notices before the lease has run out."""
        for side in self.sides:
            if held.token in side.claims:
                self.runner.run(side.deliver(held, fault))
                side.open_gate()
                del side.claims[held.token]

    @rule(held=consumes(claims), has_sent=st.booleans())
    def stop(self, held: Held, has_sent: bool) -> None:
        for side in self.sides:
            if held.token in side.claims:
                if has_sent:
                    self.runner.run(side.deliver(held, None))
                    side.open_gate()
                with side.engine.begin() as connection:
                    leases.hand_back(connection, OUTBOX, held.token, is_in_doubt=has_sent)
                del side.claims[held.token]

    @rule(held=consumes(claims))
    def shut(self, held: Held) -> None:
        """The gate shut before anything was sent."""
        for side in self.sides:
            if held.token in side.claims:
                side.settle(held.token, {event.id: Postponed() for event in side.claims[held.token]})

    @rule()
    def lose_leases(self) -> None:
        """Every claim's worker is dead or too late, and another one notices."""
        for side in self.sides:
            side.queue.pass_time(LONG)
            side.queue.charge_lost_leases()
            side.queue.pass_time(LONG)
            # Past its lease a worker sends nothing more.
            side.claims.clear()

    @rule(release=RELEASES, limit=st.sampled_from([1, 6, 6]), fault=FAULTS, dies=st.booleans())
    def work(self, release: str, limit: int, fault: str | None, *, dies: bool) -> None:
        """What happens nearly always: claim, deliver, and settle; or die, and another worker notices."""
        for side in self.sides:
            side.queue.pass_time(LEASE / 2)
        held = self.claim(release, limit)
        if not isinstance(held, Held):
            return
        if dies:
            self.die(held, fault)
            self.lose_leases()
        else:
            self.deliver(held, fault)

    @rule(said=SAYS)
    def fail_one(self, said: set[str]) -> None:
        """HubSpot refuses an event, and the next one of its driver arrives."""
        self.enqueue("ada", [("first", said)])
        self.work("new", 6, "input_refused", dies=False)
        self.enqueue("ada", [("of_the_new_release", said)])
        self.work("new", 6, None, dies=False)

    @rule()
    def pass_time(self) -> None:
        for side in self.sides:
            side.queue.pass_time(timedelta(seconds=15))

    @precondition(lambda self: self.failed())
    @rule(data=st.data(), is_cautious=st.booleans())
    def retry(self, data: st.DataObject, is_cautious: bool) -> None:
        position = data.draw(st.sampled_from(self.failed()))
        for side in self.sides:
            side.queue.retry(side.events()[position].id, is_cautious=is_cautious)

    @precondition(lambda self: self.failed())
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        position = data.draw(st.sampled_from(self.failed()))
        self.has_given_up = True
        for side in self.sides:
            side.queue.discard(side.events()[position].id)

    @rule()
    def purge(self) -> None:
        for side in self.sides:
            side.queue.purge(timedelta(0))

    @invariant()
    def no_property_goes_back(self) -> None:
        for side in self.sides:
            for subject in ("ada", "grace"):
                for name, number in side.contact(subject).items():
                    assert number >= side.seen.get((subject, name), 0), f"{side.name}: {name} of {subject} went back"
                    side.seen[subject, name] = number

    @invariant()
    def both_databases_agree(self) -> None:
        first, second = (
            [(row.attempt_count, row.processed_at is None, row.in_doubt_at is None) for row in side.events()]
            for side in self.sides
        )
        assert first == second

    def teardown(self) -> None:
        """In the end nothing is stuck; and where all was delivered, each property is what was said of it last."""
        self.deploy("new")
        self.lose_leases()
        for side in self.sides:
            for _ in range(40):
                side.queue.pass_time(LONG)
                token = uuid4().hex
                if not side.claim("new", token, 50):
                    break
                held = Held("new", token, frozenset())
                side.settle(token, self.runner.run(side.deliver(held, None)))
                side.open_gate()
            assert all(row.processed_at or row.failed_at for row in side.events())
        self.no_property_goes_back()

    def failed(self) -> list[int]:
        return [n for n, row in enumerate(self.sides[0].events()) if row.attempt_count >= ATTEMPTS_MAX]


@pytest.fixture
def sides(postgres_url: str, sandbox: Sandbox) -> Iterator[tuple[list[Side], asyncio.Runner]]:
    with TemporaryDirectory() as folder, asyncio.Runner() as runner:
        engines = {
            "sqlite": create_engine(f"sqlite:///{Path(folder) / 'outbox.db'}"),
            "postgresql": create_engine(postgres_url),
        }
        for engine in engines.values():
            configure_engine(engine)
            METADATA.create_all(engine)
        client = client_of(sandbox)
        runner.run(client.__aenter__())
        runner.run(provision(client, engines["sqlite"]))
        yield [Side(name, engine, sandbox, client) for name, engine in engines.items()], runner
        runner.run(client.__aexit__(None, None, None))
        for engine in engines.values():
            engine.dispose()


def client_of(sandbox: Sandbox) -> HubSpotClient:
    wanted = settings_for(sandbox)
    token, version = wanted.hubspot_private_app_token, wanted.hubspot_api_version
    return HubSpotClient(wanted.hubspot_base_url, token, version, connections=4)


async def provision(client: HubSpotClient, engine: Engine) -> None:
    gate = Gate(OUTBOX, engine, 10_000)
    await gate.prepare()
    plan = await plan_provisioning(client, gate, NEW)
    async for _ in carry_out(plan, client, gate, NEW):
        pass


def test_no_property_of_a_contact_goes_back_whatever_happens(sides: tuple[list[Side], asyncio.Runner]) -> None:
    Machine.sides, Machine.runner = sides
    run_state_machine(Machine, examples=8, steps=30, variable="STATE_MACHINE_EXAMPLES")
