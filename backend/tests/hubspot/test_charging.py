"""An event is charged only by an answer that is about it alone; what an answer leaves open goes again, uncharged.

The peer keeps a word on each input, whichever request it comes in, so that only the way there differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from app.models import OUTBOX
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.model import GateState
from tests.hubspot.peer import Both, Request, both_ends, http, peer_in_hubspots_place, written

Inputs = Sequence[Mapping[str, Any]]
Say = Callable[[Inputs], dict[str, Any]]


@pytest.fixture
def hubspot(engine: Engine) -> Iterator[Both]:
    with peer_in_hubspots_place() as peer:
        yield both_ends(engine, peer)


def sign_up(hubspot: Both, count: int) -> list[UUID]:
    return [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(count)]


def attempts(hubspot: Both, events: Sequence[UUID]) -> list[int]:
    return [hubspot.row(event).attempt_count for event in events]


def says(hubspot: Both, say: Say, status: int = 207) -> None:
    hubspot.peer.answer = lambda request: http(status, say(request.inputs))


def is_hers(one: Mapping[str, Any]) -> bool:
    return bool(one["properties"]["nerava_user_id"] == "driver-1")


def error_of(*inputs: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    names = [one["objectWriteTraceId"] for one in inputs]
    return {"category": "VALIDATION_ERROR", "message": "no", "context": {"objectWriteTraceId": names}, **more}


def test_error_that_names_several_inputs_charges_none_of_them(hubspot: Both) -> None:
    events = sign_up(hubspot, 4)

    def say(inputs: Inputs) -> dict[str, Any]:
        """Two are named together, though one of them alone is bad."""
        if not any(map(is_hers, inputs)):
            return written(inputs)
        named = inputs[:2] if len(inputs) > 1 else inputs
        return written([one for one in inputs if one not in named]) | {"errors": [error_of(*named)]}

    says(hubspot, say)
    hubspot.deliver()
    assert attempts(hubspot, events) == [0, 3, 0, 0]
    assert [len(request.inputs) for request in hubspot.peer.upserts] == [4, 1, 1]


def test_error_may_name_its_one_input_in_several_ways(hubspot: Both) -> None:
    events = sign_up(hubspot, 3)

    def say(inputs: Inputs) -> dict[str, Any]:
        hers = [one for one in inputs if is_hers(one)]
        context = {"objectWriteTraceId": [hers[0]["objectWriteTraceId"]], "id": ["17", hers[0]["id"]]}
        return written([one for one in inputs if not is_hers(one)]) | {"errors": [error_of(context=context)]}

    says(hubspot, say)
    hubspot.deliver()
    assert attempts(hubspot, events) == [0, 3, 0]
    assert len(hubspot.peer.upserts) == 1


def test_several_inputs_that_an_answer_leaves_out_go_again_and_none_is_charged(hubspot: Both) -> None:
    events = sign_up(hubspot, 5)
    says(hubspot, lambda inputs: written(inputs[:2] if len(inputs) == 5 else inputs))
    hubspot.deliver()
    assert attempts(hubspot, events) == [0] * 5
    assert all(map(hubspot.is_delivered, events))
    assert [len(request.inputs) for request in hubspot.peer.upserts] == [5, 1, 2]


def test_the_one_input_that_an_answer_leaves_out_is_charged(hubspot: Both) -> None:
    events = sign_up(hubspot, 3)
    says(hubspot, lambda inputs: written([one for one in inputs if not is_hers(one)]))
    hubspot.deliver()
    assert attempts(hubspot, events) == [0, 1, 0]
    assert "names other inputs and not this one" in hubspot.row(events[1]).last_error


def done_and_wrong(inputs: Inputs) -> dict[str, Any]:
    return written(inputs) | {"errors": [error_of(one) for one in inputs if is_hers(one)]}


def done_and_named_among_several(inputs: Inputs) -> dict[str, Any]:
    return written(inputs) | {"errors": [error_of(*inputs)]}


def two_contacts(inputs: Inputs) -> dict[str, Any]:
    body = written(inputs)
    body["results"] += [
        result | {"id": "77"} for result, one in zip(body["results"], inputs, strict=True) if is_hers(one)
    ]
    return body


def anothers_id(inputs: Inputs) -> dict[str, Any]:
    body = written(inputs)
    for result, one in zip(body["results"], inputs, strict=True):
        if is_hers(one):
            result["properties"] = result["properties"] | {"nerava_user_id": "driver-9"}
    return body


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (done_and_wrong, "names the input both as done and as wrong"),
        (two_contacts, "names several contacts for the input"),
        (anothers_id, "names another's contact for the input"),
    ],
)
def test_result_that_the_answer_speaks_against_confirms_nothing(hubspot: Both, say: Say, words: str) -> None:
    """Among others the input goes again, uncharged; alone it is charged a retry."""
    events = sign_up(hubspot, 3)
    says(hubspot, say)
    hubspot.deliver()
    assert [hubspot.is_delivered(event) for event in events] == [True, False, True]
    assert attempts(hubspot, events) == [0, 1, 0]
    assert words in hubspot.row(events[1]).last_error
    assert [len(request.inputs) for request in hubspot.peer.upserts] == [3, 1]
    assert hubspot.gate().state is GateState.OPEN


@pytest.mark.parametrize("say", [done_and_wrong, two_contacts, anothers_id])
def test_input_that_was_doubted_among_others_is_delivered_once_it_is_confirmed_alone(hubspot: Both, say: Say) -> None:
    events = sign_up(hubspot, 3)
    says(hubspot, lambda inputs: say(inputs) if len(inputs) > 1 else written(inputs))
    hubspot.deliver()
    assert all(map(hubspot.is_delivered, events))
    assert attempts(hubspot, events) == [0] * 3


def test_results_of_which_an_error_of_several_speaks_confirm_nothing_until_each_is_alone(hubspot: Both) -> None:
    events = sign_up(hubspot, 4)
    says(hubspot, lambda inputs: done_and_named_among_several(inputs) if len(inputs) > 1 else written(inputs))
    hubspot.deliver()
    assert all(map(hubspot.is_delivered, events))
    assert attempts(hubspot, events) == [0] * 4


def test_contact_of_a_secondary_address_is_a_confirmation(hubspot: Both) -> None:
    """HubSpot finds it by that address, and shows the primary one."""
    [event] = sign_up(hubspot, 1)

    def say(inputs: Inputs) -> dict[str, Any]:
        body = written(inputs)
        body["results"][0]["properties"] = {"email": "another@example.com", "nerava_user_id": " Driver-0 "}
        return body

    says(hubspot, say)
    hubspot.deliver()
    assert hubspot.is_delivered(event)


def test_result_that_comes_twice_is_a_confirmation(hubspot: Both) -> None:
    [event] = sign_up(hubspot, 1)
    says(hubspot, lambda inputs: {"status": "COMPLETE", "results": written(inputs)["results"] * 2})
    hubspot.deliver()
    assert hubspot.is_delivered(event)


@pytest.mark.parametrize(
    ("guilty", "refusal"),
    [(range(5), http(400)), ([*range(5), *range(6, 16)], http(404, {"category": "OBJECT_NOT_FOUND"}))],
    ids=["the first", "all but one"],
)
def test_inputs_that_are_refused_without_a_word_hold_nobody_while_any_other_gets_through(
    hubspot: Both, guilty: Sequence[int], refusal: bytes
) -> None:
    """They may be the first that a worker sends alone, again after each hold."""
    refused = {f"driver-{number}" for number in guilty}
    hubspot.peer.answer = lambda request: (
        refusal if refused & {one["id"] for one in request.inputs} else http(200, written(request.inputs))
    )
    events = [hubspot.sign_up(f"driver-{number}") for number in range(16)]
    with hubspot.one_worker() as deliver:
        deliver()
        for _ in range(4):
            operations.release(hubspot.engine, OUTBOX, by="ada")
            deliver()
    assert [number for number, event in enumerate(events) if not hubspot.is_delivered(event)] == [*guilty]
    assert all(hubspot.row(events[number]).failed_at is not None for number in guilty)
    assert hubspot.gate().state is GateState.OPEN


@pytest.mark.parametrize("odd", [None, True, {}, [], ""], ids=repr)
def test_result_without_a_record_id_confirms_nothing(hubspot: Both, odd: object) -> None:
    events = sign_up(hubspot, 2)

    def say(inputs: Inputs) -> dict[str, Any]:
        body = written(inputs)
        body["results"][0]["id"] = odd
        return body

    says(hubspot, say)
    hubspot.deliver()
    assert [hubspot.is_delivered(event) for event in events] == [False, True]
    # The answer does not leave it out, so it says nothing of it alone.
    assert attempts(hubspot, events) == [0, 0]
    assert [len(request.inputs) for request in hubspot.peer.upserts][:2] == [2, 1]


def test_errors_of_a_refusal_charge_nobody_who_is_not_alone(hubspot: Both) -> None:
    """A 400 is about the request; who of two is guilty shows when each is alone."""
    events = sign_up(hubspot, 2)

    def answer(request: Request) -> bytes:
        if not any(map(is_hers, request.inputs)):
            return http(200, written(request.inputs))
        return http(400, {"category": "VALIDATION_ERROR", "message": "no", "errors": [{"code": "A", "message": "b"}]})

    hubspot.peer.answer = answer
    hubspot.deliver()
    assert attempts(hubspot, events) == [0, 3]
    assert [len(request.inputs) for request in hubspot.peer.upserts] == [2, 1, 1]


def test_hold_for_a_schema_that_one_input_meets_charges_nobody(hubspot: Both) -> None:
    events = sign_up(hubspot, 3)
    errors = [{"code": "PROPERTY_DOESNT_EXIST", "context": {"propertyName": ["nerava_stage"]}}]
    says(hubspot, lambda inputs: written(inputs[:1]) | {"errors": [error_of(inputs[1], errors=errors)]})
    hubspot.deliver()
    assert attempts(hubspot, events) == [0] * 3
    assert [hubspot.is_delivered(event) for event in events] == [True, False, False]
    assert hubspot.gate().state is GateState.HELD
