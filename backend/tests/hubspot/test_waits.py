"""Events that set a property which the account lacks wait, with those behind them; everything else goes on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, update

from app.events import CATALOG
from app.models import OUTBOX
from hubspot_sandbox import Sandbox
from hubspot_sync.page.notices import notices
from hubspot_sync.runtime import WorkerState, WorkerStatus
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.model import GateState
from sqlalchemy_outbox.settling.waits import Wait
from tests.hubspot.conftest import HubSpot
from tests.hubspot.peer import Request, accept, both_ends, http, peer_in_hubspots_place, written
from tests.hubspot.test_command_line import run

LONG = timedelta(minutes=10)
TOTAL, BALANCE = "nerava_lifetime_earned", "nerava_balance"
MISSING = f"the account lacks the properties {TOTAL}: run `provision` to create them."


def lose(sandbox: Sandbox, *names: str) -> None:
    for name in names:
        sandbox.run(lambda account, name=name: account.archive_property(name))


def make_read_only(sandbox: Sandbox, name: str) -> None:
    def change(account: Any) -> None:
        definitions = account.schema._definitions  # No call of HubSpot's makes one so.
        definitions[name] = replace(definitions[name], read_only_value=True)

    sandbox.run(change)


def waiting(hubspot: HubSpot) -> list[tuple[str, int]]:
    return [(wait.key, wait.events) for wait in status_of(hubspot)]


def status_of(hubspot: HubSpot) -> tuple[Wait, ...]:
    return operations.status(hubspot.engine, OUTBOX).waiting


def fail_by_hand(hubspot: HubSpot, event_id: UUID) -> None:
    """As docs/commands.md says."""
    failed = {"attempt_count": 3, "failed_at": OUTBOX.events.c.created_at, "claim_token": None}
    with hubspot.engine.begin() as connection:
        connection.execute(update(OUTBOX.events).where(OUTBOX.events.c.event_id == event_id).values(failed))


def test_event_that_sets_a_missing_property_waits_and_all_others_arrive(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL)
    others = [hubspot.sign_up(f"driver-{n}", email=f"d{n}@example.com") for n in range(20)]
    waits_ = hubspot.earn("driver-7", 5)
    hubspot.deliver()
    assert all(map(hubspot.is_delivered, others))
    assert hubspot.gate().state is GateState.OPEN
    row = hubspot.row(waits_)
    assert (row.attempt_count, row.failed_at, row.processed_at, row.last_error) == (0, None, None, MISSING)
    assert waiting(hubspot) == [(TOTAL, 1)]


def test_what_precedes_it_of_its_driver_is_sent_and_what_follows_waits(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL)
    before = hubspot.sign_up("driver-1", email="ada@example.com", stage="signed_up")
    waits_ = hubspot.earn("driver-1", 5)
    behind = hubspot.sign_up("driver-1", email="new@example.com")
    hubspot.deliver()
    later = hubspot.sign_up("driver-1", phone="+491711234567")
    hubspot.deliver()
    assert hubspot.is_delivered(before)
    assert not any(map(hubspot.is_delivered, (waits_, behind, later)))
    contact = hubspot.contact("driver-1")
    assert contact is not None
    assert contact["email"] == "ada@example.com"
    assert (hubspot.row(behind).last_error or "").startswith("waits behind an earlier event of its subject: ")
    hubspot.provision()
    hubspot.deliver()
    assert all(map(hubspot.is_delivered, (waits_, behind, later)))
    assert (hubspot.contact("driver-1") or {})["email"] == "new@example.com"
    assert waiting(hubspot) == []


def test_read_only_property_is_waited_for_as_a_missing_one(hubspot: HubSpot) -> None:
    make_read_only(hubspot.sandbox, TOTAL)
    event = hubspot.earn("driver-1", 5)
    other = hubspot.sign_up("driver-2")
    hubspot.deliver()
    assert hubspot.is_delivered(other)
    assert not hubspot.is_delivered(event)
    assert waiting(hubspot) == [(f"{TOTAL} (read-only)", 1)]
    assert "read-only" in (hubspot.row(event).last_error or "")


@pytest.mark.parametrize("key", ["nerava_user_id", "email"])
def test_key_that_is_missing_holds_everything(hubspot: HubSpot, key: str) -> None:
    def forget(account: Any) -> None:
        del account.schema._definitions[key]  # HubSpot's own email cannot be archived.

    hubspot.sandbox.run(forget)
    lose(hubspot.sandbox, TOTAL)
    events = [hubspot.earn("driver-1", 5, email="ada@example.com"), hubspot.sign_up("driver-2", email="b@example.com")]
    hubspot.deliver()
    assert not any(map(hubspot.is_delivered, events))
    assert hubspot.gate().state is GateState.HELD
    assert key in (hubspot.gate().reason or "")
    assert waiting(hubspot) == []


def test_new_events_of_the_kind_wait_without_a_request_of_their_own(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL)
    with hubspot.one_worker() as deliver:
        hubspot.earn("driver-0", 5)
        deliver()
        requests = len(hubspot.upserts())
        for number in range(1, 6):
            hubspot.earn(f"driver-{number}", 5)
            deliver()
    assert len(hubspot.upserts()) == requests == 1
    assert waiting(hubspot) == [(TOTAL, 6)]


def test_events_of_several_lacks_wait_for_their_own(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL, "nerava_first_redemption_at")
    hubspot.earn("driver-1", 5)
    at = {"completed_at": "2026-11-24T19:00:00Z"}
    hubspot.track("first_redemption_completed", {"user_id": "driver-2", "redemption_id": "r", "merchant_id": "m", **at})
    hubspot.deliver()
    assert waiting(hubspot) == [("nerava_first_redemption_at", 1), (TOTAL, 1)]


def test_account_that_gets_one_of_two_properties_is_waited_for_by_the_other(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL, BALANCE)
    event = hubspot.earn("driver-1", 5)
    hubspot.deliver()
    assert waiting(hubspot) == [(f"{BALANCE}, {TOTAL}", 1)]
    hubspot.provision()
    lose(hubspot.sandbox, BALANCE)
    hubspot.deliver()
    assert waiting(hubspot) == [(BALANCE, 1)]
    hubspot.provision()
    hubspot.deliver()
    assert hubspot.is_delivered(event)


def refusal(*errors: dict[str, Any], message: str = "Property values were not valid") -> bytes:
    return http(400, {"category": "VALIDATION_ERROR", "message": message, "errors": list(errors)})


def listed(*lacking: str) -> Callable[[Request], bytes]:
    return lambda request: http(
        200,
        {
            "results": [
                {"name": declared.name, "type": declared.type.value, "hasUniqueValue": declared.is_unique}
                for declared in CATALOG.properties
                if declared.name not in lacking
            ]
        },
    )


REFUSALS = {
    "names all": refusal(
        {"code": "PROPERTY_DOESNT_EXIST", "message": "no", "context": {"propertyName": [TOTAL]}},
        {"code": "PROPERTY_DOESNT_EXIST", "message": "no", "context": {"propertyName": [BALANCE]}},
    ),
    "names fewer": refusal({"code": "PROPERTY_DOESNT_EXIST", "message": "no", "context": {"propertyName": [TOTAL]}}),
    "names none": refusal({"code": "PROPERTY_DOESNT_EXIST", "message": "no"}),
    "names another": refusal({"code": "PROPERTY_DOESNT_EXIST", "context": {"propertyName": ["nerava_stage"]}}),
    "has no code": refusal(),
    "says so in words only": refusal(message='Property "nerava_lifetime_earned" does not exist'),
}


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=list(REFUSALS))
def test_list_says_what_is_missing_where_hubspot_names_less_or_nothing(engine: Engine, answer: bytes) -> None:
    with peer_in_hubspots_place() as peer:
        both = both_ends(engine, peer)
        answer_list = listed(TOTAL, BALANCE)
        look_at_account = peer.account
        peer.account = lambda request: (answer_list if "properties" in request.path else look_at_account)(request)

        def answer_upsert(request: Request) -> bytes:
            is_lacking = any({TOTAL, BALANCE} & one["properties"].keys() for one in request.inputs)
            return answer if is_lacking else http(200, written(request.inputs))

        peer.answer = answer_upsert
        event, other = both.earn("driver-1", 5), both.sign_up("driver-2")
        both.deliver()
        assert both.is_delivered(other)
        assert (both.row(event).attempt_count, both.row(event).failed_at) == (0, None)
        assert waiting(both) == [(f"{BALANCE}, {TOTAL}", 1)]
        assert both.gate().state is GateState.OPEN


def test_row_of_a_207_is_judged_by_the_list_too(engine: Engine) -> None:
    with peer_in_hubspots_place() as peer:
        both = both_ends(engine, peer)
        answer_list, look_at_account = listed(TOTAL), peer.account
        peer.account = lambda request: (answer_list if "properties" in request.path else look_at_account)(request)

        def answer_upsert(request: Request) -> bytes:
            good = [one for one in request.inputs if TOTAL not in one["properties"]]
            bad = [one["objectWriteTraceId"] for one in request.inputs if TOTAL in one["properties"]]
            errors = [
                {"category": "VALIDATION_ERROR", "message": "no", "context": {"objectWriteTraceId": [trace_id]}}
                for trace_id in bad
            ]
            return http(207 if bad else 200, written(good) | {"errors": errors})

        peer.answer = answer_upsert
        event, other = both.earn("driver-1", 5), both.sign_up("driver-2")
        both.deliver()
        assert both.is_delivered(other)
        assert both.row(event).failed_at is None
        assert waiting(both) == [(TOTAL, 1)]


def odd_list(request: Request) -> bytes:
    """Nothing of ours is odd but what may be: fields that are null; and what somebody else made is as it is."""
    ours = json.loads(listed(TOTAL)(request).partition(b"\r\n\r\n")[2])["results"]
    null = {"options": None, "modificationMetadata": None}
    ours = [declared | null | {"hasUniqueValue": declared["hasUniqueValue"] or None} for declared in ours]
    others: list[object] = [
        {"name": "a", "type": None},
        {"name": "b"},
        {"name": None, "type": "string"},
        {"name": "c", "type": "string", "options": [1, {"value": []}], "hasUniqueValue": "maybe"},
        {"name": "d", "type": ["string"], "modificationMetadata": {"readOnlyValue": None}},
        None,
        "e",
        {"name": TOTAL, "type": "number", "archived": True},
    ]
    return http(200, {"results": [*others, *ours]})


def test_list_is_read_whatever_others_have_put_into_it(engine: Engine) -> None:
    with peer_in_hubspots_place() as peer:
        both = both_ends(engine, peer)
        look_at_account = peer.account
        peer.account = lambda request: (odd_list if "properties" in request.path else look_at_account)(request)
        peer.answer = lambda request: (
            REFUSALS["names all"] if any(TOTAL in one["properties"] for one in request.inputs) else accept(request)
        )
        event, other = both.earn("driver-1", 5), both.sign_up("driver-2")
        both.deliver()
        assert both.is_delivered(other)
        assert both.row(event).attempt_count == 0
        assert waiting(both) == [(TOTAL, 1)]
        assert both.gate().state is GateState.OPEN


LISTS_THAT_SAY_NOTHING = {
    "all is there": listed(),
    "no list": lambda request: http(200, {"results": "none"}),
    "no JSON": lambda request: http(200, b"<html>"),
    "forbidden": lambda request: http(403, {"category": "MISSING_SCOPES", "message": "no"}),
}


@pytest.mark.parametrize("answer_list", LISTS_THAT_SAY_NOTHING.values(), ids=list(LISTS_THAT_SAY_NOTHING))
def test_refusal_that_the_list_does_not_explain_holds_everything(
    engine: Engine, answer_list: Callable[[Request], bytes]
) -> None:
    with peer_in_hubspots_place() as peer:
        both = both_ends(engine, peer)
        look_at_account = peer.account
        peer.account = lambda request: (answer_list if "properties" in request.path else look_at_account)(request)
        peer.answer = lambda request: REFUSALS["names fewer"]
        event = both.earn("driver-1", 5)
        both.deliver()
        assert both.row(event).attempt_count == 0
        assert (both.gate().state, both.gate().reason) == (GateState.HELD, MISSING)
        assert waiting(both) == []


def test_list_without_an_answer_counts_as_no_answer_and_charges_nobody(engine: Engine) -> None:
    with peer_in_hubspots_place() as peer:
        both = both_ends(engine, peer)
        look_at_account = peer.account
        peer.account = lambda request: http(502) if "properties" in request.path else look_at_account(request)
        peer.answer = lambda request: REFUSALS["names none"]
        event = both.earn("driver-1", 5)
        both.deliver()
        assert both.row(event).attempt_count == 0
        assert both.gate().state is GateState.THROTTLED
        assert (both.gate().reason or "").startswith("outage")


def test_they_go_on_by_themselves_with_a_worker_that_runs(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL)
    events = [hubspot.earn(f"driver-{number}", 5) for number in range(3)]
    hubspot.deliver()
    hubspot.provision()

    async def run() -> None:
        async with hubspot.integration.worker() as worker:
            running = asyncio.create_task(worker.run())
            async with asyncio.timeout(30):
                while not all(map(hubspot.is_delivered, events)):
                    await asyncio.to_thread(lambda: None)
            worker.stop()
            await running

    asyncio.run(run())
    assert waiting(hubspot) == []


def test_nobody_looks_while_the_gate_is_held_by_a_person(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL)
    hubspot.earn("driver-1", 5)
    hubspot.deliver()
    operations.hold(hubspot.engine, OUTBOX, "import", by="test")
    hubspot.deliver()
    # A starting worker looks at the account all the same.
    paths = [request["path"] for request in hubspot.sandbox.requests()]
    assert [path for path in paths if "properties" in path][1:] == []


def test_dry_run_leaves_what_waits_and_marks_others(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL)
    waits_ = hubspot.earn("driver-1", 5)
    hubspot.deliver()
    hubspot.settings = hubspot.settings.model_copy(update={"hubspot_send_live": False})
    other = hubspot.earn("driver-2", 5)
    requests = len(hubspot.sandbox.requests())
    hubspot.deliver()
    assert len(hubspot.sandbox.requests()) == requests
    assert hubspot.row(other).dry_run
    assert not hubspot.is_delivered(waits_)
    assert waiting(hubspot) == [(TOTAL, 1)]


@pytest.mark.usefixtures("terminal")
def test_what_waits_is_shown_with_its_remedy(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL)
    event = hubspot.earn("driver-1", 5)
    hubspot.deliver()
    assert MISSING in run("status").stdout
    [shown] = json.loads(run("status", "--json").stdout)["waiting"]
    assert (shown["key"], shown["reason"], shown["events"]) == (TOTAL, MISSING, 1)
    [check] = [it for it in json.loads(run("doctor", "--json").stdout)["checks"] if it["name"] == "waiting events"]
    assert (check["finding"], MISSING in check["detail"]) == ("warn", True)
    assert MISSING in run("show", str(event)).stdout
    assert json.loads(run("show", str(event), "--json").stdout)["waits_for"] == TOTAL
    snapshot = operations.snapshot(hubspot.engine, OUTBOX)
    assert [wait.events for wait in snapshot.waiting] == [1]
    assert snapshot.oldest_pending_seconds is None
    worker = WorkerStatus(WorkerState.RUNNING)
    assert MISSING in [notice.words for notice in notices(snapshot, worker, hubspot.settings)]


def test_waiting_event_that_is_failed_by_hand_lets_those_behind_it_go(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL)
    event, behind = hubspot.earn("driver-1", 5), hubspot.sign_up("driver-1")
    hubspot.deliver()
    fail_by_hand(hubspot, event)
    hubspot.deliver()
    assert hubspot.is_delivered(behind)
    assert hubspot.row(event).waits_for is None
    assert waiting(hubspot) == []


def test_waiting_event_that_is_failed_by_hand_and_discarded_lets_those_behind_it_go(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL)
    event, behind = hubspot.earn("driver-1", 5), hubspot.sign_up("driver-1")
    hubspot.deliver()
    fail_by_hand(hubspot, event)
    hubspot.queue.discard(hubspot.row(event).id)
    hubspot.deliver()
    assert hubspot.is_delivered(behind)


def test_waiting_event_that_is_failed_by_hand_and_retried_waits_again_and_arrives(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL)
    event = hubspot.earn("driver-1", 5)
    hubspot.deliver()
    fail_by_hand(hubspot, event)
    hubspot.queue.retry(hubspot.row(event).id)
    hubspot.deliver()
    assert waiting(hubspot) == [(TOTAL, 1)]
    hubspot.provision()
    hubspot.deliver()
    assert hubspot.is_delivered(event)


def test_list_of_many_properties_is_read_beside_the_event_loop(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured by the loop's own processor time, which a busy machine does not change."""
    option = {"label": "An option", "value": "an_option", "displayOrder": 1, "hidden": False}
    many = [
        {"name": f"other_{number}", "type": "enumeration", "options": [option] * 20, "hasUniqueValue": False}
        for number in range(1300)
    ]
    ours = json.loads(listed(TOTAL)(Request("GET", "", None)).partition(b"\r\n\r\n")[2])["results"]
    steps: list[float] = []
    run_step = asyncio.Handle._run  # What every step of a loop goes through.

    def timed(handle: asyncio.Handle) -> None:
        began_at = time.thread_time()
        run_step(handle)
        steps.append(time.thread_time() - began_at)

    with peer_in_hubspots_place() as peer:
        both = both_ends(engine, peer)
        answer_list, look_at_account = http(200, {"results": many + ours}), peer.account
        assert len(answer_list) > 1_000_000
        peer.account = lambda request: answer_list if "properties" in request.path else look_at_account(request)
        peer.answer = lambda request: REFUSALS["names none"]
        both.earn("driver-1", 5)
        monkeypatch.setattr(asyncio.Handle, "_run", timed)
        both.deliver()
        assert waiting(both) == [(TOTAL, 1)]
    assert max(steps) < 0.05


async def test_two_workers_set_apart_and_release_together(hubspot: HubSpot) -> None:
    lose(hubspot.sandbox, TOTAL)
    before = [hubspot.earn(f"driver-{number}", 5) for number in range(60)]
    async with hubspot.integration.worker() as first, hubspot.integration.worker() as second:
        await asyncio.gather(first.drain(), second.drain())
        assert waiting(hubspot) == [(TOTAL, 60)]
        behind = [hubspot.sign_up(f"driver-{number}") for number in range(60)]
        await asyncio.to_thread(hubspot.provision)
        async with asyncio.timeout(60):
            # One of them may remember for ten seconds what the account lacked.
            while not all(map(hubspot.is_delivered, before + behind)):
                await asyncio.gather(first.drain(), second.drain())
    assert waiting(hubspot) == []
    assert all(hubspot.row(event).attempt_count == 0 for event in before + behind)
