"""An address goes to whom the application gave it last, and nothing else of a driver waits for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete

from app.models import OUTBOX
from hubspot_sandbox import Sandbox
from hubspot_sandbox.account import Account
from hubspot_sandbox.switches import Switches
from hubspot_sync.moves import MoveType
from tests.hubspot.conftest import LONG, HubSpot, settings_for

EITHER_REFUSAL = [
    Switches(email_conflict="conflict"),
    Switches(email_conflict="coordinates"),
    Switches(email_conflict="coordinates", trace_ids_split_upserts=False),
]


@pytest.fixture(params=EITHER_REFUSAL, ids=["row by row", "by coordinates", "as a whole"])
def hubspot(request: pytest.FixtureRequest, engine: Engine, sandbox: Sandbox) -> HubSpot:
    return account(engine, sandbox, request.param)


def account(engine: Engine, sandbox: Sandbox, switches: Switches) -> HubSpot:
    sandbox.switch(**switches.model_dump())
    hubspot = HubSpot(engine, sandbox, settings_for(sandbox))
    hubspot.provision()
    return hubspot


@pytest.fixture
def plain_hubspot(engine: Engine, sandbox: Sandbox) -> HubSpot:
    return account(engine, sandbox, Switches())


def addresses(hubspot: HubSpot) -> dict[str, str]:
    """Each driver's address in HubSpot, as its local part."""
    return {
        properties["nerava_user_id"]: properties.get("email", "").partition("@")[0]
        for contact in hubspot.sandbox.contacts()
        if "nerava_user_id" in (properties := contact["properties"])
    }


def balances(hubspot: HubSpot) -> dict[str, str]:
    return {
        contact["properties"]["nerava_user_id"]: contact["properties"].get("nerava_balance", "")
        for contact in hubspot.sandbox.contacts()
    }


def sign_up(hubspot: HubSpot, *names: str) -> None:
    """Each with an address and a balance of her own."""
    for n, name in enumerate(names):
        hubspot.earn(name, n, email=f"{name}@example.com")
    hubspot.deliver()
    assert addresses(hubspot) == {name: name for name in names}


@contextmanager
def nothing_fails(hubspot: HubSpot) -> Iterator[None]:
    yield
    rows = [hubspot.row(event_id) for event_id in hubspot.event_ids()]
    assert [row.last_error for row in rows if row.failed_at is not None] == []
    assert all(row.processed_at is not None and row.attempt_count == 0 for row in rows)


@pytest.mark.parametrize("one_worker", [True, False])
def test_two_drivers_exchange_their_addresses_and_keep_their_contacts(hubspot: HubSpot, one_worker: bool) -> None:
    sign_up(hubspot, "ada", "grace")
    records = {contact["properties"]["nerava_user_id"]: contact["id"] for contact in hubspot.sandbox.contacts()}
    with nothing_fails(hubspot):
        hubspot.earn("ada", 10, email="grace@example.com")
        if not one_worker:
            hubspot.deliver()
        hubspot.earn("grace", 20, email="ada@example.com")
        hubspot.deliver()
    assert addresses(hubspot) == {"ada": "grace", "grace": "ada"}
    assert balances(hubspot) == {"ada": "10", "grace": "20"}
    after = {contact["properties"]["nerava_user_id"]: contact["id"] for contact in hubspot.sandbox.contacts()}
    assert after == records


@pytest.mark.parametrize("is_cycle", [True, False])
def test_chains_and_cycles_of_addresses_resolve_by_themselves(hubspot: HubSpot, is_cycle: bool) -> None:
    names = ["ada", "grace", "joan", "mary"]
    sign_up(hubspot, *names)
    with nothing_fails(hubspot):
        for n, (name, following) in enumerate(pairwise([*names, names[0]] if is_cycle else names)):
            hubspot.earn(name, 10 + n, email=f"{following}@example.com")
        if not is_cycle:
            hubspot.earn("mary", 13, email="new@example.com")
        hubspot.deliver()
    last = "ada" if is_cycle else "new"
    assert addresses(hubspot) == {"ada": "grace", "grace": "joan", "joan": "mary", "mary": last}
    assert balances(hubspot) == {"ada": "10", "grace": "11", "joan": "12", "mary": "13"}


def test_driver_who_signs_up_with_anothers_address_does_not_take_her_contact_over(hubspot: HubSpot) -> None:
    """Grace has said nothing since: ada's claim is the newest one."""
    sign_up(hubspot, "grace")
    with nothing_fails(hubspot):
        hubspot.earn("ada", 7, email="grace@example.com")
        hubspot.deliver()
    assert addresses(hubspot) == {"ada": "grace", "grace": ""}
    assert balances(hubspot) == {"ada": "7", "grace": "0"}


def test_contact_of_another_application_run_is_not_taken_over_either(hubspot: HubSpot) -> None:
    create(hubspot, nerava_user_id="grace", email="grace@example.com", nerava_balance="99")
    with nothing_fails(hubspot):
        hubspot.earn("ada", 7, email="grace@example.com")
        hubspot.deliver()
    assert addresses(hubspot) == {"ada": "grace", "grace": ""}
    assert balances(hubspot) == {"ada": "7", "grace": "99"}


def test_address_stays_with_whom_the_application_gave_it_last(hubspot: HubSpot) -> None:
    """Grace's newer claim is stored before ada's older one is delivered."""
    sign_up(hubspot, "grace")
    with nothing_fails(hubspot):
        hubspot.earn("ada", 7, email="grace@example.com")
        hubspot.earn("grace", 8, email="grace@example.com")
        hubspot.deliver()
    assert addresses(hubspot) == {"ada": "", "grace": "grace"}
    assert balances(hubspot) == {"ada": "7", "grace": "8"}


def test_claim_that_was_given_up_meanwhile_moves_nothing(hubspot: HubSpot) -> None:
    sign_up(hubspot, "grace", "ada")
    with nothing_fails(hubspot):
        hubspot.earn("ada", 7, email="grace@example.com")
        hubspot.deliver_one_claim()
        hubspot.earn("ada", 8, email="new@example.com")
        hubspot.deliver()
    assert addresses(hubspot)["ada"] == "new"
    assert balances(hubspot) == {"ada": "8", "grace": "0"}


def test_drivers_later_events_do_not_wait_for_the_address(plain_hubspot: HubSpot) -> None:
    hubspot = plain_hubspot
    sign_up(hubspot, "ada", "grace")
    # Grace's events wait, and with them what would release her address.
    hubspot.earn("grace", 1)
    token, events = hubspot.queue.claim()
    assert [event.subject for event in events] == ["grace"]
    claiming = hubspot.earn("ada", 10, email="grace@example.com", phone="+491")
    hubspot.deliver()
    later = hubspot.earn("ada", 11)
    hubspot.deliver()
    assert hubspot.is_delivered(claiming)
    assert hubspot.is_delivered(later)
    assert (hubspot.contact("ada") or {})["phone"] == "+491"
    assert (hubspot.contact("ada") or {})["nerava_balance"] == "11"
    assert addresses(hubspot) == {"ada": "ada", "grace": "grace"}
    hubspot.queue.hand_back(token)
    hubspot.deliver()
    assert addresses(hubspot) == {"ada": "grace", "grace": ""}


def test_another_drivers_contact_is_written_only_by_events_of_her_own(plain_hubspot: HubSpot) -> None:
    hubspot = plain_hubspot
    sign_up(hubspot, "ada", "grace")
    hubspot.earn("ada", 10, email="grace@example.com")
    hubspot.deliver_one_claim()
    rows = [hubspot.row(event_id) for event_id in hubspot.event_ids()]
    assert [(row.event_type, row.subject, row.processed_at) for row in rows[3:]] == [(MoveType.RELEASE, "grace", None)]
    assert addresses(hubspot) == {"ada": "ada", "grace": "grace"}
    hubspot.deliver_one_claim()
    rows = [hubspot.row(event_id) for event_id in hubspot.event_ids()]
    assert [(row.event_type, row.subject, row.processed_at) for row in rows[4:]] == [(MoveType.GRANT, "ada", None)]
    assert addresses(hubspot) == {"ada": "ada", "grace": ""}


@pytest.mark.parametrize("dies_at", range(3))
def test_crash_at_any_step_of_an_exchange_ends_in_the_same(plain_hubspot: HubSpot, dies_at: int) -> None:
    hubspot = plain_hubspot
    sign_up(hubspot, "ada", "grace")
    hubspot.earn("ada", 10, email="grace@example.com")
    hubspot.earn("grace", 20, email="ada@example.com")
    for step in range(3):
        hubspot.deliver_one_claim(is_settled=step != dies_at)
    for _ in range(6):
        hubspot.deliver()
        hubspot.queue.pass_time(LONG)
    assert addresses(hubspot) == {"ada": "grace", "grace": "ada"}
    assert balances(hubspot) == {"ada": "10", "grace": "20"}


def archive(hubspot: HubSpot, driver: str) -> None:
    def archive(account: Account) -> None:
        contact = account.contacts.find("nerava_user_id", driver)
        assert contact is not None
        account.contacts.archive(contact, account.clock())

    hubspot.sandbox.run(archive)


def test_release_from_a_contact_that_is_gone_makes_no_other_one(plain_hubspot: HubSpot) -> None:
    hubspot = plain_hubspot
    sign_up(hubspot, "grace")
    hubspot.earn("ada", 7, email="grace@example.com")
    hubspot.deliver_one_claim()
    archive(hubspot, "grace")
    with nothing_fails(hubspot):
        hubspot.deliver()
    assert addresses(hubspot) == {"ada": "grace"}


def test_where_releasing_is_refused_the_release_fails_with_true_words(engine: Engine, sandbox: Sandbox) -> None:
    hubspot = account(engine, sandbox, Switches(empty_email="refused"))
    sign_up(hubspot, "ada", "grace")
    claiming = hubspot.earn("ada", 10, email="grace@example.com")
    hubspot.deliver()
    assert hubspot.is_delivered(claiming)
    (failed,) = [row for event_id in hubspot.event_ids() if (row := hubspot.row(event_id)).failed_at is not None]
    assert (failed.event_type, failed.subject) == (MoveType.RELEASE, "grace")
    assert "email cannot be empty" in failed.last_error
    assert "merge" not in failed.last_error
    assert balances(hubspot)["ada"] == "10"


def test_former_address_that_hubspot_keeps_fails_alone_and_says_whose_it_is(engine: Engine, sandbox: Sandbox) -> None:
    hubspot = account(engine, sandbox, Switches(former_email="secondary"))
    sign_up(hubspot, "ada", "grace")
    grace = hubspot.sandbox.contact(nerava_user_id="grace")
    assert grace is not None
    claiming = hubspot.earn("ada", 10, email="grace@example.com")
    hubspot.deliver()
    assert hubspot.is_delivered(claiming)
    (failed,) = [row for event_id in hubspot.event_ids() if (row := hubspot.row(event_id)).failed_at is not None]
    assert (failed.event_type, failed.subject) == (MoveType.GRANT, "ada")
    assert f"contact {grace['id']}, which is grace's" in failed.last_error
    assert "secondary" in failed.last_error
    assert "merge" not in failed.last_error
    assert "@" not in failed.last_error
    assert balances(hubspot) == {"ada": "10", "grace": "1"}


def test_whole_batch_of_marketers_contacts_is_adopted_by_few_requests(hubspot: HubSpot) -> None:
    for n in range(20):
        create(hubspot, email=f"driver-{n}@example.com", firstname="Ada")
    with nothing_fails(hubspot):
        for n in range(20):
            hubspot.earn(f"driver-{n}", n, email=f"driver-{n}@example.com")
        before = len(hubspot.sandbox.requests())
        hubspot.deliver()
    assert len(hubspot.sandbox.contacts()) == 20
    assert all(contact["properties"]["firstname"] == "Ada" for contact in hubspot.sandbox.contacts())
    # A look at the account, the upsert, a look at who has the addresses, and the upsert by them.
    assert len(hubspot.sandbox.requests()) - before == 4


def create(hubspot: HubSpot, **properties: str) -> None:
    answer = httpx2.post(
        f"{hubspot.sandbox.url}/crm/objects/2026-09/contacts",
        json={"properties": properties},
        headers={"Authorization": "Bearer pat-na1-0"},
    )
    assert answer.status_code == 201, answer.text


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ada", "grace", "joan"]),
        st.sampled_from(["x", "y", "z"]),
        # What happens before the next event: nothing, some claims of which the last may be lost, or all there are.
        st.sampled_from(["", "", "claim", "claim", "crash", "all"]),
    ),
    min_size=2,
    max_size=10,
)


def test_address_is_in_the_end_with_whom_it_was_given_to_last_whatever_happens_on_the_way(
    plain_hubspot: HubSpot,
) -> None:
    hubspot = plain_hubspot

    @given(steps=STEPS, is_whole=st.booleans())
    @settings(
        max_examples=int(os.environ.get("ADDRESS_EXAMPLES", "6")),
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    def play(steps: list[tuple[str, str, str]], is_whole: bool) -> None:
        hubspot.sandbox.run(lambda account: account.contacts.clear())
        hubspot.sandbox.switch(trace_ids_split_upserts=not is_whole)
        with hubspot.engine.begin() as connection:
            for table in (OUTBOX.events, OUTBOX.leases, OUTBOX.gate):
                connection.execute(delete(table))
        wishes, owners, crashes = {}, {}, 0
        for number, (driver, address, what) in enumerate(steps):
            hubspot.earn(driver, number, email=f"{address}@example.com")
            wishes[driver], owners[address] = address, driver
            if what == "all":
                hubspot.deliver()
            elif what:
                # An event that is lost three times has failed.
                dies = what == "crash" and crashes < 2
                crashes += dies
                hubspot.deliver_one_claim(is_settled=not dies)
        for _ in range(8):
            hubspot.queue.pass_time(LONG)
            hubspot.deliver()
        found = addresses(hubspot)
        assert {driver: found[driver] for driver, wish in wishes.items() if owners[wish] == driver} == {
            driver: wish for driver, wish in wishes.items() if owners[wish] == driver
        }
        last = {driver: str(number) for number, (driver, _, _) in enumerate(steps)}
        assert balances(hubspot) == last
        rows = [hubspot.row(event_id) for event_id in hubspot.event_ids()]
        assert all(row.processed_at is not None for row in rows), [row.last_error for row in rows]

    play()
