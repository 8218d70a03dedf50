"""Whatever HubSpot sends, no step holds the event loop for long: requests of the application share it with the worker.

What is measured is the processor time of the loop's own thread, so that a busy machine changes nothing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.events import CATALOG
from app.models import OUTBOX
from app.services.hubspot import track_event
from hubspot_sync.answer import ENTRIES_MAX
from hubspot_sync.client import ANSWER_BYTES_MAX, LIST_BYTES_MAX, REFUSAL_BYTES_MAX
from hubspot_sync.errors import Refused
from hubspot_sync.exchange import HEAD_BYTES_MAX
from hubspot_sync.provisioning import plan_provisioning
from sqlalchemy_outbox.gate.gate import Gate
from tests.hubspot.conftest import SIGNED_UP
from tests.hubspot.peer import Both, Request, both_ends, http, peer_in_hubspots_place

DRIVERS = 100
STEP_SECONDS_MAX = 0.050
FIELDS = ("category", "code", "message", "subCategory")


class MeasuredLoop(asyncio.SelectorEventLoop):
    """Knows how long its longest step took, in processor time of its thread."""

    longest = 0.0

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        return super().call_soon(self._measure, callback, args, context=context)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        return super().call_soon_threadsafe(self._measure, callback, args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        return super().call_at(when, self._measure, callback, args, context=context)

    def _measure(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        began = time.thread_time()
        try:
            callback(*args)
        finally:
            self.longest = max(self.longest, time.thread_time() - began)


@pytest.fixture
def hubspot(engine: Engine) -> Iterator[Both]:
    with peer_in_hubspots_place() as peer:
        yield both_ends(engine, peer, hubspot_batch_size=DRIVERS)


def longest_step(work: Callable[[], Any]) -> float:
    """Run the coroutine in a loop of its own thread; a collection of what pytest has in memory is not the work's."""
    loops: list[MeasuredLoop] = []

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loops.append(MeasuredLoop()) or loops[0]) as runner:
            runner.run(work())

    gc.collect()
    gc.freeze()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    gc.unfreeze()
    return loops[0].longest


def filled(entry: Callable[[int], dict[str, Any]], count: int, size: int, **around: Any) -> bytes:
    """A body whose errors are so many that they fit, each padded so that together they have the size."""
    errors = [entry(n) for n in range(count)]
    left = size - len(json.dumps({"errors": errors, **around})) - 64
    for error in errors:
        error["message"] = error.get("message", "") + " word" * max(0, left // count // 5 - 4)
    return json.dumps({"errors": errors, **around}).encode()


def message(text: str, size: int = REFUSAL_BYTES_MAX) -> bytes:
    count = (size - 100) // (len(json.dumps(text)) - 2)
    return json.dumps({"category": "VALIDATION_ERROR", "message": text * count}).encode()


def of_an_input(request: Request, n: int) -> dict[str, Any]:
    one = request.inputs[n % len(request.inputs)]
    return {"category": "VALIDATION_ERROR", "context": {"id": [one["id"]], "objectWriteTraceId": ["x"]}}


REFUSALS = {
    "20,000 errors": b'{"errors":[' + b",".join([b'{"code":"A"}'] * 20_000) + b"]}",
    "as many errors as are read": filled(lambda n: {"code": f"C{n}"}, ENTRIES_MAX, REFUSAL_BYTES_MAX),
    "missing properties": filled(
        lambda n: {"code": "PROPERTY_DOESNT_EXIST", "context": {"propertyName": [f"p{n}"]}}, 1900, REFUSAL_BYTES_MAX
    ),
    "empty lists": b"[" + b"[]," * (REFUSAL_BYTES_MAX // 3 - 2) + b"1]",
    "empty lists as errors": b'{"errors":[' + b"[]," * (REFUSAL_BYTES_MAX // 3 - 9) + b"1]}",
    "a long context": json.dumps({"context": {"propertyName": ["a"] * 40_000, "existingId": ["1"] * 10}}).encode(),
    "digits": message("9"),
    "digits behind a conflict's words": message("Cannot set PropertyValueCoordinates{propertyName=email}" + "9" * 9000),
    "addresses": message("ada@example.com "),
    "one address": message("a@"),
    "phone numbers": message("+49 (30) 123-456 "),
    "signs of phone numbers": message("+1((((("),
    "tokens": message("pat-na1-"),
    "bearers": message("Bearer "),
    "spaces": message(" "),
    "listed problems": message('Property values were not valid: [{"error": "A", "name": "b", "message": "c"}]'),
    "listed lists": json.dumps(
        {"message": "Property values were not valid: [" + "[]," * 20_000 + "1]", "category": "VALIDATION_ERROR"}
    ).encode(),
    "scopes": json.dumps(
        {"category": "MISSING_SCOPES", "errors": [{"context": {"requiredGranularScopes": ["s" * 8000] * 30}}]}
    ).encode(),
    "half surrogate pairs": message("\ud800"),
    "deep": b'{"a":' * 20_000,
}


@pytest.mark.parametrize("body", REFUSALS.values(), ids=REFUSALS)
def test_no_refusal_holds_the_event_loop(hubspot: Both, body: bytes) -> None:
    assert len(body) <= REFUSAL_BYTES_MAX
    status = 403 if b"MISSING_SCOPES" in body else 400
    assert longest_step_of_deliveries(hubspot, lambda _: http(status, body)) < STEP_SECONDS_MAX


SUCCESSES: dict[str, Callable[[Request], bytes]] = {
    "as many errors as are read, each of an input": lambda request: filled(
        lambda n: of_an_input(request, n), 600, ANSWER_BYTES_MAX, status="COMPLETE"
    ),
    "as many errors as are read, of nobody": lambda _: filled(
        lambda n: {"category": "A", "code": f"C{n}"}, ENTRIES_MAX, ANSWER_BYTES_MAX, status="COMPLETE"
    ),
    "as many small errors as are read": lambda _: json.dumps({"errors": [{"category": "A"}] * ENTRIES_MAX}).encode(),
    "errors of errors": lambda _: json.dumps(
        {"errors": [{"errors": [{"code": "A", "message": "b" * 400}] * 90}] * 20}
    ).encode(),
    "results of nobody": lambda _: json.dumps(
        {"results": [{"id": n, "properties": {"nerava_user_id": "a" * 400}} for n in range(ENTRIES_MAX)]}
    ).encode(),
    "empty lists": lambda _: b"[" + b"[]," * (ANSWER_BYTES_MAX // 3 - 2) + b"1]",
    "empty objects as results": lambda _: b'{"results":[' + b"{}," * (ANSWER_BYTES_MAX // 3 - 9) + b"{}]}",
    "errors whose words begin with blanks": lambda _: filled(
        lambda n: {"category": "A", "message": " " * 1100 + "7" * 6500}, 120, ANSWER_BYTES_MAX - 1000
    ),
    "too long": lambda _: b" " * (2 * ANSWER_BYTES_MAX),
}


@pytest.mark.parametrize("say", SUCCESSES.values(), ids=SUCCESSES)
def test_no_success_holds_the_event_loop(hubspot: Both, say: Callable[[Request], bytes]) -> None:
    assert longest_step_of_deliveries(hubspot, lambda request: http(207, say(request))) < STEP_SECONDS_MAX


WIRES = {
    "many headers": b"HTTP/1.1 401 Oh\r\n" + b"a:\r\n" * (HEAD_BYTES_MAX // 4 - 10) + b"\r\n",
    "headers without an end": b"HTTP/1.1 401 Oh\r\n" + b"a:\r\n" * 100_000,
    "interim answers without an end": b"HTTP/1.1 100\r\n\r\n" * 100_000,
    "chunks of a byte": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 200_000,
    "a chunk's extension": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 2_000_000,
}


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_no_form_of_an_answer_holds_the_event_loop(hubspot: Both, wire: bytes) -> None:
    assert longest_step_of_deliveries(hubspot, lambda _: wire) < STEP_SECONDS_MAX


@pytest.mark.parametrize(
    "body",
    [
        b'{"results":[' + b"{}," * (LIST_BYTES_MAX // 3 - 9) + b"{}]}",
        json.dumps({"results": [{"name": f"p{n}", "type": "string", "description": "a" * 900} for n in range(4000)]}),
    ],
    ids=["empty objects", "properties"],
)
def test_no_list_of_properties_holds_the_event_loop(hubspot: Both, body: bytes | str) -> None:
    content = body.encode() if isinstance(body, str) else body
    hubspot.peer.account = lambda _: http(200, content)

    async def plan() -> None:
        gate = Gate(OUTBOX, hubspot.engine, 1000)
        await gate.prepare()
        async with hubspot.integration.client() as client:
            try:
                await plan_provisioning(client, gate, CATALOG)
            except Refused:
                """What makes no sense is refused."""

    assert longest_step(plan) < STEP_SECONDS_MAX


def longest_step_of_deliveries(hubspot: Both, answer: Callable[[Request], bytes]) -> float:
    """One request for all gets this answer, and the next one a hold."""
    with Session(hubspot.engine) as db, db.begin():
        for n in range(DRIVERS):
            driver = {"user_id": f"driver-{n}", "email": f"{n}.{'a' * 60}@example.com", "phone": f"030 {n:07}"}
            track_event(db, "driver_signed_up", driver | SIGNED_UP)
    hubspot.peer.answer = lambda request: answer(request) if len(hubspot.peer.upserts) == 1 else http(401)
    longest = longest_step(hubspot.deliver_in_this_loop)
    assert len(hubspot.peer.upserts[0].inputs) == DRIVERS
    return longest
