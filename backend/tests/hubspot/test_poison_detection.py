"""A contact on which HubSpot fails each time, told from a day on which HubSpot fails: real worker, real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import cast
from uuid import UUID

import pytest

from hubspot_sync.poison_detection import ANSWERS_TO_BLAME, ONE_CONTACT, PoisonDetector
from hubspot_sync.translation import ContactUpsert
from sqlalchemy_outbox.gate.row import OUTAGES_TO_CLOSE
from sqlalchemy_outbox.model import ATTEMPTS_MAX, GateState
from tests.hubspot.conftest import HubSpot
from tests.outbox.queue import LongestWait

LONG = timedelta(minutes=10)
BATCH = 4
# Not every try is one that others' answers surround.
TRIES_MAX = 6 * ATTEMPTS_MAX


@pytest.fixture
def hubspot(hubspot: HubSpot) -> HubSpot:
    hubspot.settings = hubspot.settings.model_copy(update={"hubspot_batch_size": BATCH})
    return hubspot


@asynccontextmanager
async def one_worker(hubspot: HubSpot) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Deliveries by the same worker, which remembers; before each, every wait is over."""
    async with hubspot.integration.worker(random=LongestWait()) as worker:

        async def deliver() -> None:
            await asyncio.to_thread(hubspot.queue.pass_time, LONG)
            await worker.drain()

        yield deliver


def sign_up(hubspot: HubSpot, number: int) -> UUID:
    return hubspot.sign_up(f"driver-{number}", email=f"driver-{number}@example.com")


def sign_up_enough_to_blame(hubspot: HubSpot, first: int) -> list[UUID]:
    return [sign_up(hubspot, n) for n in range(first, first + 2 * ANSWERS_TO_BLAME * BATCH)]


@pytest.mark.parametrize("kind", ["server_error", "empty_results"])
async def test_contact_that_hubspot_fails_on_each_time_fails_alone(hubspot: HubSpot, kind: str) -> None:
    hubspot.sandbox.faults.add(kind, contact="driver-7@example.com", path="/batch/upsert")
    others = [sign_up(hubspot, n) for n in range(10) if n != 7]
    guilty = sign_up(hubspot, 7)
    async with one_worker(hubspot) as deliver:
        await deliver()
        await deliver()
        assert all(hubspot.is_delivered(it) for it in others)
        for attempt in range(1, TRIES_MAX):
            others += sign_up_enough_to_blame(hubspot, attempt * 1000)
            await deliver()
            if hubspot.row(guilty).failed_at:
                break
        after = hubspot.earn("driver-7", 5)
        hubspot.sandbox.faults.clear()
        await deliver()
    assert hubspot.row(guilty).failed_at
    assert hubspot.is_delivered(after)
    assert all(hubspot.is_delivered(it) and hubspot.row(it).attempt_count == 0 for it in others)
    assert hubspot.gate().state is GateState.OPEN


async def test_several_contacts_that_hubspot_fails_on_are_no_outage_while_others_are_answered(hubspot: HubSpot) -> None:
    numbers = range(OUTAGES_TO_CLOSE)
    for number in numbers:
        hubspot.sandbox.faults.add("server_error", contact=f"driver-{number}@example.com", path="/batch/upsert")
    guilty = [sign_up(hubspot, number) for number in numbers]
    async with one_worker(hubspot) as deliver:
        for _ in range(6):
            # Until each has been tried alone, it may be HubSpot's doing.
            await deliver()
        # How many answers lie between two tries of a contact is for the requests' concurrency to say.
        for spell in range(1, TRIES_MAX):
            others = sign_up_enough_to_blame(hubspot, spell * 1000)
            await deliver()
            if hubspot.gate().state is not GateState.OPEN:
                # They failed in a row before any other was answered; the next probe shows that it is not HubSpot.
                await deliver()
            assert hubspot.gate().state is GateState.OPEN
            assert all(hubspot.is_delivered(it) for it in others)
            if all(hubspot.row(it).attempt_count > 0 for it in guilty):
                break
    assert [hubspot.row(it).attempt_count > 0 for it in guilty] == [True] * len(guilty)


async def test_contact_that_always_fails_keeps_no_other_waiting_where_there_is_little_to_do(hubspot: HubSpot) -> None:
    hubspot.sandbox.faults.add("server_error", contact="driver-7@example.com")
    guilty = sign_up(hubspot, 7)
    async with one_worker(hubspot) as deliver:
        await deliver()
        assert hubspot.gate().state is GateState.THROTTLED
        for number in range(20, 24):
            await deliver()
            other = sign_up(hubspot, number)
            await deliver()
            assert hubspot.is_delivered(other)
    assert hubspot.row(guilty).attempt_count == 0


async def test_merged_event_that_hubspot_fails_on_fails_and_those_before_and_behind_it_arrive(
    hubspot: HubSpot,
) -> None:
    """Its contact is in trouble only with one of its addresses."""
    hubspot.sandbox.faults.add("server_error", contact="wrong@example.com")
    before = hubspot.earn("driver-7", 1)
    guilty = hubspot.earn("driver-7", 2, email="wrong@example.com")
    async with one_worker(hubspot) as deliver:
        for attempt in range(1, TRIES_MAX):
            sign_up_enough_to_blame(hubspot, attempt * 1000)
            await deliver()
            if hubspot.row(guilty).failed_at:
                break
        behind = hubspot.earn("driver-7", 3)
        await deliver()
    assert hubspot.is_delivered(before)
    assert hubspot.row(guilty).failed_at
    assert hubspot.is_delivered(behind)


@pytest.mark.parametrize("seed", range(1))
async def test_hubspot_that_answers_every_other_request_fails_no_event(hubspot: HubSpot, seed: int) -> None:
    random = Random(seed)
    events = []
    async with one_worker(hubspot) as deliver:
        hubspot.sandbox.faults.add("server_error", share=0.5, path="/batch/upsert")
        for spell in range(6):
            events += [sign_up(hubspot, spell * 100 + n) for n in range(random.randint(1, 60))]
            for _ in range(4):
                await deliver()
        hubspot.sandbox.faults.clear()
        for _ in range(3):
            await deliver()
    assert all(hubspot.is_delivered(it) for it in events)


@dataclass
class Subject:
    subject: str


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("requests_between_tries", [6])
def test_poison_detection_blames_nobody_three_times_for_requests_that_fail_by_chance(
    share: float, requests_between_tries: int
) -> None:
    random, detector = Random(1), PoisonDetector()
    blamed: dict[str, int] = {}

    def ask(subject: str) -> None:
        upsert = cast(ContactUpsert, Subject(subject))
        if random.random() >= share:
            detector.note_answer([upsert])
            blamed.pop(subject, None)
        else:
            blamed[subject] = blamed.get(subject, 0) + detector.note_no_answer([upsert]).is_blamed

    for n in range(20_000):
        ask(f"driver-{n}")
        if n % requests_between_tries == 0:
            for subject in list(blamed):
                ask(subject)
        assert max(blamed.values(), default=0) < ATTEMPTS_MAX


NO_ANSWER = "HubSpot answered 500"


async def test_one_contact_without_an_answer_is_called_so_while_nothing_else_is_sent(hubspot: HubSpot) -> None:
    hubspot.sandbox.faults.add("server_error", contact="driver-7@example.com", path="/batch/upsert")
    sign_up(hubspot, 7)
    async with one_worker(hubspot) as deliver:
        for _ in range(OUTAGES_TO_CLOSE):
            await deliver()
    assert hubspot.gate().state is GateState.THROTTLED
    reason = hubspot.gate().reason or ""
    assert reason.startswith(f"outage: {ONE_CONTACT}, those of driver-7, and nothing else is being sent")
    assert reason.endswith(NO_ANSWER)


async def test_its_record_is_named_where_it_is_known(hubspot: HubSpot) -> None:
    sign_up(hubspot, 7)
    async with one_worker(hubspot) as deliver:
        await deliver()
        record = hubspot.sandbox.contact(nerava_user_id="driver-7")
        assert record is not None
        hubspot.sandbox.faults.add("server_error", path="/batch/upsert")
        hubspot.earn("driver-7", 5)
        for _ in range(OUTAGES_TO_CLOSE):
            await deliver()
    assert f"driver-7 (record {record['id']})" in (hubspot.gate().reason or "")


async def test_one_contact_without_an_answer_shuts_nothing_while_others_are_answered(hubspot: HubSpot) -> None:
    hubspot.sandbox.faults.add("server_error", contact="driver-7@example.com", path="/batch/upsert")
    sign_up(hubspot, 7)
    async with one_worker(hubspot) as deliver:
        for number in range(20, 30):
            sign_up(hubspot, number)
            await deliver()
    assert hubspot.gate().state is GateState.OPEN


async def test_several_contacts_without_an_answer_are_hubspots_outage(hubspot: HubSpot) -> None:
    hubspot.sandbox.faults.add("server_error", path="/batch/upsert")
    async with one_worker(hubspot) as deliver:
        for number in range(OUTAGES_TO_CLOSE):
            sign_up(hubspot, number)
            await deliver()
    assert hubspot.gate().reason == f"outage: {NO_ANSWER}"


async def test_contact_that_had_no_answer_before_the_others_had_one_is_the_only_one(hubspot: HubSpot) -> None:
    hubspot.sandbox.faults.add("server_error", contact="driver-7@example.com", path="/batch/upsert")
    async with one_worker(hubspot) as deliver:
        for number in range(BATCH + 7):
            sign_up(hubspot, number)
        await deliver()
        for _ in range(OUTAGES_TO_CLOSE + 1):
            await deliver()
    assert ONE_CONTACT in (hubspot.gate().reason or "")
