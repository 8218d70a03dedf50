"""After a resync every contact is as the tables have it, whatever was lost, deleted or used up before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, event, func, select, text
from sqlalchemy.orm import Session

from app.clock import now
from app.database import create_database_engine
from app.events import CATALOG
from app.models import OUTBOX, Driver, Wallet
from app.present_state import PRESENT_STATE
from demo.audit import Difference, compare_contacts
from demo.ledger import KEY, read_ledger
from hubspot_sandbox import Account, Sandbox
from hubspot_sync import resync as resync_module
from hubspot_sync.present_state import PresentState
from hubspot_sync.resync import SUBJECTS_AT_ONCE, EventsLost, Progress, Resync
from sqlalchemy_outbox import operations
from tests.app.conftest import Hub, SignedInDriver, hub  # noqa: F401  # A fixture.
from tests.conftest import BACKEND, url_of_kind
from tests.hubspot.conftest import HubSpot, settings_for
from tests.hubspot.test_telemetry import eventually

RESYNC = [sys.executable, "-m", "app.cli", "resync"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Both: they keep writers apart in different ways."""
    return url_of_kind(request, sqlite="migrated_sqlite_url", postgresql="migrated_postgres_url")


@pytest.fixture
def drivers(hub: Hub) -> list[SignedInDriver]:  # noqa: F811
    """One driver of each kind: only signed up, with passes, who earned, who redeemed, with sessions out of order."""
    phone = hub.sign_up(phone="+4917012345678")
    with_pass = hub.sign_up(email="pass@example.com")
    hub.install_pass(with_pass, "apple")
    hub.install_pass(with_pass, "google")
    earning = hub.sign_up(email="earning@example.com")
    hub.grant(earning, energy_kwh="7.78")
    hub.grant(earning, energy_kwh="0.01")
    redeeming = hub.sign_up(email="redeeming@example.com")
    hub.grant(redeeming, energy_kwh="10")
    hub.redeem(redeeming, 30)
    hub.redeem(redeeming, 20, merchant_id="hub-cinema")
    late = hub.sign_up(phone="+4917012345679")
    hub.grant(late, ended_at="2026-11-24T08:00:00Z")
    return [phone, with_pass, earning, redeeming, late]


def resync(engine: Engine, state: PresentState = PRESENT_STATE) -> Resync:
    return Resync(engine, OUTBOX, CATALOG, state, by="cli:ada")


def differences(engine: Engine, sandbox: Sandbox) -> list[Difference]:
    contacts = {it["properties"][KEY]: it["properties"] for it in sandbox.contacts()}
    return list(compare_contacts(read_ledger(engine), contacts))


def delete_contacts(sandbox: Sandbox) -> None:
    def archive(account: Account) -> None:
        for contact in account.contacts.page(0, limit=1000):
            account.contacts.archive(contact, account.clock())

    sandbox.run(archive)


def payloads(engine: Engine, *types: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Subject and payload of the outbox's events of these types, in order."""
    c = OUTBOX.events.c
    statement = select(c.subject, c.payload).where(c.event_type.in_(types)).order_by(c.id)
    with engine.connect() as connection:
        for row in connection.execute(statement):
            yield row.subject, json.loads(row.payload)


@pytest.mark.usefixtures("drivers")
def test_resync_after_a_dry_run_makes_every_contact_equal_to_the_wallet(hubspot: HubSpot) -> None:
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_send_live=False)
    hubspot.deliver()
    hubspot.settings = settings_for(hubspot.sandbox)
    hubspot.deliver()
    assert hubspot.sandbox.contacts() == []
    [progress] = resync(hubspot.engine).all()
    assert (progress.subjects, progress.events) == (5, 5 + 1 + 3 + 2)
    hubspot.deliver()
    assert differences(hubspot.engine, hubspot.sandbox) == []
    assert len(hubspot.sandbox.contacts()) == 5


@pytest.mark.usefixtures("drivers")
def test_resync_after_contacts_were_deleted_brings_them_all_back(hubspot: HubSpot) -> None:
    hubspot.deliver()
    assert differences(hubspot.engine, hubspot.sandbox) == []
    delete_contacts(hubspot.sandbox)
    assert differences(hubspot.engine, hubspot.sandbox) != []
    list(resync(hubspot.engine).all())
    hubspot.deliver()
    assert differences(hubspot.engine, hubspot.sandbox) == []


@pytest.mark.usefixtures("drivers")
def test_interrupted_resync_goes_on_after_the_last_subject_that_was_stored(
    hubspot: HubSpot, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubspot.deliver()
    delete_contacts(hubspot.sandbox)
    monkeypatch.setattr(resync_module, "SUBJECTS_AT_ONCE", 2)
    interrupted = resync(hubspot.engine).all()
    first = next(interrupted)
    interrupted.close()
    assert (first.subjects, resync(hubspot.engine).count(first.last)) == (2, 3)
    *_, last = resync(hubspot.engine).all(first.last)
    assert last.subjects == 3
    hubspot.deliver()
    assert differences(hubspot.engine, hubspot.sandbox) == []


def test_resync_is_told_by_the_audit_and_by_each_of_its_events(engine: Engine, drivers: list[SignedInDriver]) -> None:
    list(resync(engine).these([drivers[1].id]))
    [entry] = operations.read_audit(engine, OUTBOX)
    assert (entry.by, entry.action, entry.count) == ("cli:ada", "resync", 2)
    assert entry.detail == {"subjects": [drivers[1].id]}
    *_, newest = operations.events_of(engine, OUTBOX, drivers[1].id)
    history = operations.read_history(engine, OUTBOX, newest.event_id)
    assert history is not None
    assert [it.action for it in history.audit] == ["resync"]


def test_only_the_named_subjects_are_sent_and_those_that_do_not_exist_are_told(
    engine: Engine, drivers: list[SignedInDriver]
) -> None:
    before = count_events(engine)
    unknown = "00000000-0000-4000-8000-000000000000"
    named = [drivers[0].id, drivers[1].id.upper(), drivers[0].id, unknown, "no id at all"]
    [progress] = resync(engine).these(named)
    assert (progress.subjects, progress.events) == (2, 3)
    assert progress.unknown == (unknown, "no id at all")
    assert count_events(engine) == before + 3


def test_cursor_that_is_no_id_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="driver-1 is no driver's id"):
        resync(engine).count("driver-1")


@pytest.mark.usefixtures("drivers")
def test_resync_that_the_outbox_does_not_take_says_so(engine: Engine) -> None:
    with engine.begin() as connection:
        once = "ON outbox_events (subject) WHERE event_type = 'driver_signed_up'"
        connection.execute(text(f"CREATE UNIQUE INDEX uq_signed_up_once {once}"))
    with pytest.raises(EventsLost):
        list(resync(engine).all())


def test_driver_cannot_change_between_what_is_read_of_them_and_its_event(
    hubspot: HubSpot,
    hub: Hub,  # noqa: F811
    drivers: list[SignedInDriver],
) -> None:
    redeeming = drivers[3]
    has_redeemed = threading.Event()

    def redeem() -> None:
        assert hub.redeem(redeeming, 10).status_code == 201
        has_redeemed.set()

    with ThreadPoolExecutor() as threads:

        def read_then_let_the_driver_redeem(db: Session, subjects: Sequence[str]) -> Any:
            events = PRESENT_STATE.events_of(db, subjects)
            threads.submit(redeem)
            has_redeemed.wait(0.5)
            return events

        list(resync(hubspot.engine, replace(PRESENT_STATE, events_of=read_then_let_the_driver_redeem)).all())
    assert has_redeemed.is_set()
    totals = [it["lifetime_redeemed"] for _, it in payloads(hubspot.engine, "nova_redeemed")]
    assert totals == [30, 50, 50, 60]
    hubspot.deliver()
    assert differences(hubspot.engine, hubspot.sandbox) == []


def test_resync_that_races_with_redemptions_never_moves_a_contact_backwards(
    hubspot: HubSpot,
    hub: Hub,  # noqa: F811
) -> None:
    racers = [hub.sign_up() for _ in range(3)]
    for driver in racers:
        hub.grant(driver, energy_kwh="10")

    def redeem(driver: SignedInDriver) -> None:
        for _ in range(8):
            assert hub.redeem(driver, 1).status_code == 201

    with ThreadPoolExecutor() as threads:
        redeeming = [threads.submit(redeem, it) for it in racers]
        rounds: list[Progress] = []
        while not all(it.done() for it in redeeming) or not rounds:
            rounds += resync(hubspot.engine).all()
            hubspot.deliver()
            seen = {it["properties"][KEY]: it["properties"] for it in hubspot.sandbox.contacts()}
            assert all(it in seen for it in (driver.id for driver in racers))
        for it in redeeming:
            it.result()
    newest = dict.fromkeys((it.id for it in racers), (0, 0))
    for subject, payload in payloads(hubspot.engine, "nova_redeemed"):
        totals = payload["lifetime_redeemed"], payload["redeemed_count"]
        assert totals >= newest[subject], "an event says less than one before it"
        newest[subject] = totals
    hubspot.deliver()
    assert differences(hubspot.engine, hubspot.sandbox) == []


def count_events(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(OUTBOX.events)).scalar_one()


def test_resync_of_many_asks_as_many_statements_as_of_a_few(engine: Engine, hub: Hub) -> None:  # noqa: F811
    """What is read for a driver comes with that of the others of its transaction."""
    counts = []
    for _ in range(2):
        for _ in range(3):
            driver = hub.sign_up()
            hub.grant(driver, energy_kwh="10")
            hub.redeem(driver, 30)
        counts.append(count_statements(engine))
    assert counts[0] == counts[1]


def count_statements(engine: Engine) -> int:
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(engine, "before_cursor_execute", note)
    with Session(engine) as db:
        PRESENT_STATE.events_of(db, [str(it) for it in db.scalars(select(Driver.id))])
    event.remove(engine, "before_cursor_execute", note)
    return len(statements)


def test_interrupted_command_says_how_to_go_on(migrated_postgres_url: str) -> None:
    engine = create_database_engine(migrated_postgres_url)
    ids = sorted(str(uuid4()) for _ in range(SUBJECTS_AT_ONCE * 2 + 1))
    add_drivers(engine, ids)
    with Session(engine) as db, db.begin():
        # The command waits for this driver, with all before them stored.
        db.get(Driver, UUID(ids[-1]), with_for_update=True)
        interrupted = subprocess.Popen(
            [*RESYNC, "--all", "--yes"], cwd=BACKEND, env=environment(migrated_postgres_url), stderr=subprocess.PIPE
        )
        eventually(lambda: count_waiting(engine) == 1)
        assert count_events(engine) == len(ids) - 1
        interrupted.send_signal(signal.SIGINT)
        _, said = interrupted.communicate(timeout=30)
    assert interrupted.returncode == 1
    go_on = f"resync --all --after {ids[-2]} --yes"
    assert go_on in said.decode()
    command = [*RESYNC, *go_on.split()[1:]]
    subprocess.run(command, cwd=BACKEND, env=environment(migrated_postgres_url), check=True, stdout=subprocess.DEVNULL)
    assert [subject for subject, _ in payloads(engine, "driver_signed_up")] == ids
    engine.dispose()


def count_waiting(engine: Engine) -> int:
    """Transactions of this database that wait for a row."""
    statement = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine.connect() as connection:
        return connection.execute(statement).scalar_one()


def add_drivers(engine: Engine, ids: Sequence[str]) -> None:
    nothing_yet = dict.fromkeys(
        ("balance", "lifetime_earned", "lifetime_redeemed", "earned_count", "redeemed_count"), 0
    )
    with Session(engine) as db, db.begin():
        for id_ in ids:
            wallet = Wallet(**nothing_yet)
            email = f"{id_}@example.com"
            db.add(Driver(id=UUID(id_), email=email, auth_provider="otp", created_at=now(), wallet=wallet))


def environment(database_url: str) -> dict[str, str]:
    return os.environ | {"DATABASE_URL": database_url}
