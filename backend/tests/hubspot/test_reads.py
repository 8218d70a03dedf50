"""Where another contact has a driver's address, that one is read: what goes wrong with it is that driver's matter."""

from __future__ import annotations

import json
import logging
import os
import string
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from sqlalchemy import Engine, Row, select

from app.models import OUTBOX
from hubspot_sync.client import ANSWER_BYTES_MAX
from hubspot_sync.moves import MoveType
from sqlalchemy_outbox.model import GateState
from tests.hubspot.conftest import HubSpot
from tests.hubspot.peer import ACCOUNT, Both, Request, both_ends, http, peer_in_hubspots_place, written
from tests.hubspot.test_any_answer import RECIPES, Complaints, Recipe, changed, forget_everything

HEALTHY = ("healthy-1", "healthy-2", "healthy-3")
NO_HTTP = b""

on_both = pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"migrated_{getattr(request, 'param', 'sqlite')}_url")
    return url


@pytest.fixture
def hubspot(engine: Engine) -> Iterator[Both]:
    with peer_in_hubspots_place() as peer:
        yield both_ends(engine, peer)


def address_of(driver: str) -> str:
    return f"{driver}@example.com"


def holder(address: str, **changes: object) -> dict[str, object]:
    """A contact as a read shows it, by default one that marketing made."""
    return {"id": "77", "properties": {"email": address, "nerava_user_id": None} | changes}


class Reads:
    """The peer finds every address but those of the healthy taken, and answers reads of some keys oddly."""

    def __init__(self, hubspot: Both, odd: Mapping[str, bytes], found: Mapping[str, dict[str, object]] = {}) -> None:
        self.keys: list[list[str]] = []
        self._odd = odd
        self._found = found
        self._taken = {*odd, *found}
        hubspot.peer.account = self._answer
        hubspot.peer.answer = self._upsert

    def _answer(self, request: Request) -> bytes:
        if not request.path.endswith("/batch/read"):
            return http(200, ACCOUNT)
        keys = [one["id"] for one in request.inputs]
        self.keys.append(keys)
        if (odd := next((self._odd[key] for key in keys if key in self._odd), None)) is not None:
            return odd
        return http(200, {"status": "COMPLETE", "results": [self._found[key] for key in keys if key in self._found]})

    def _upsert(self, request: Request) -> bytes:
        refused = [
            one
            for one in request.inputs
            if one["idProperty"] == "nerava_user_id" and one["properties"].get("email") in self._taken
        ]
        errors = [
            {"category": "CONFLICT", "message": "Contact already exists.", "context": {"id": [one["id"]]}}
            for one in refused
        ]
        return http(207, written([one for one in request.inputs if one not in refused]) | {"errors": errors})


REFUSALS = {
    "400": http(400, {"category": "VALIDATION_ERROR", "message": "no such address: ada@example.com"}),
    "409": http(409),
    "413": http(413),
    "too-many-bytes": http(200, b" " * (ANSWER_BYTES_MAX + 1)),
    "too-many-results": http(200, {"results": [{}] * 2001}),
}
SILENCES = {"503": http(503), "nothing": NO_HTTP, "no-json": http(200, b"hi"), "204": http(204)}


def test_read_that_is_refused_for_one_contact_is_found_alone_and_hurts_nobody_else(hubspot: Both) -> None:
    drivers = [*REFUSALS, "423"]
    odd = {address_of(driver): answer for driver, answer in (REFUSALS | {"423": http(423)}).items()}
    Reads(hubspot, odd, {address_of("marketers"): holder(address_of("marketers"))})
    events = {driver: hubspot.sign_up(driver, email=address_of(driver)) for driver in [*drivers, "marketers", *HEALTHY]}
    hubspot.deliver()
    rows = {driver: hubspot.row(event) for driver, event in events.items()}
    assert {driver for driver, row in rows.items() if row.processed_at is not None} == {"marketers", *HEALTHY}
    assert {driver: rows[driver].attempt_count for driver in drivers} == dict.fromkeys(REFUSALS, 1) | {"423": 0}
    assert all("does not show the contact" in rows[driver].last_error for driver in drivers)
    assert "ada" not in rows["400"].last_error
    assert hubspot.gate().state is GateState.OPEN
    assert len(hubspot.peer.upserts) <= 4


@pytest.mark.parametrize("silence", SILENCES.values(), ids=SILENCES)
def test_read_without_an_answer_charges_nobody_and_hurts_nobody_else(hubspot: Both, silence: bytes) -> None:
    others = [f"marketers-{n}" for n in range(7)]
    found = {address_of(driver): holder(address_of(driver)) for driver in others}
    reads = Reads(hubspot, {address_of("silent"): silence}, found)
    events = {driver: hubspot.sign_up(driver, email=address_of(driver)) for driver in ["silent", *others, *HEALTHY]}
    hubspot.deliver()
    rows = {driver: hubspot.row(event) for driver, event in events.items()}
    assert {driver for driver, row in rows.items() if row.processed_at is None} == {"silent"}
    assert all(row.attempt_count == 0 for row in rows.values())
    assert "does not show the contact" in rows["silent"].last_error
    assert hubspot.gate().state is GateState.OPEN
    assert len(reads.keys) < 15


def test_release_whose_contact_is_not_shown_keeps_no_neighbour_waiting(hubspot: Both) -> None:
    """It is looked at before anything of its claim is sent."""
    address = address_of("ada")
    Reads(hubspot, {"grace": http(400)}, {address: holder(address, nerava_user_id="grace")})
    hubspot.sign_up("ada", email=address)
    hubspot.deliver_one_claim()
    neighbours = [hubspot.sign_up(driver, email=address_of(driver)) for driver in HEALTHY]
    hubspot.deliver()
    assert all(hubspot.is_delivered(event) for event in neighbours)
    (release,) = moves(hubspot)
    assert (release.event_type, release.attempt_count) == (MoveType.RELEASE, 1)


def moves(hubspot: HubSpot) -> list[Row[Any]]:
    c = OUTBOX.events.c
    with hubspot.engine.connect() as connection:
        return list(connection.execute(select(OUTBOX.events).where(c.event_type.in_([*MoveType])).order_by(c.id)))


IDS = {
    "long": "".join(Random(1).choices(string.ascii_letters, k=70_000)),
    "of 256 characters": "a" * 256,
    "NUL": "gra\0ce",
    "half a surrogate pair": "gra\ud800ce",
}


@on_both
def test_holder_whose_id_no_driver_can_have_costs_only_the_address(hubspot: Both) -> None:
    found = {address_of(str(n)): holder(address_of(str(n)), nerava_user_id=id_) for n, id_ in enumerate(IDS.values())}
    Reads(hubspot, {}, found)
    events = [hubspot.sign_up(str(n), email=address_of(str(n))) for n in range(len(IDS))]
    events += [hubspot.sign_up(driver, email=address_of(driver)) for driver in HEALTHY]
    hubspot.deliver()
    assert all(hubspot.is_delivered(event) for event in events)
    assert [move.event_type for move in moves(hubspot)] == [MoveType.GRANT] * len(IDS)
    assert all("no subject of ours can have" in move.last_error for move in moves(hubspot))


def test_words_about_a_holder_are_short_and_free_of_personal_data(hubspot: Both) -> None:
    ids = {"by-record": ("mary@example.com", "grace"), "by-id": ("7" * 70_000, "mary@example.com")}
    found = {
        address_of(driver): holder(address_of(driver), nerava_user_id=our_id) | {"id": record_id}
        for driver, (record_id, our_id) in ids.items()
    }
    Reads(hubspot, {}, found)
    for driver in ids:
        hubspot.sign_up(driver, email=address_of(driver))
    hubspot.deliver()
    words = [move.last_error for move in moves(hubspot) if move.failed_at is not None]
    assert len(words) == len(ids)
    assert all("stays with contact" in text and "mary" not in text and len(text) < 400 for text in words)


@settings(
    max_examples=int(os.environ.get("ANY_ANSWER_EXAMPLES", "5")),
    phases=[Phase.generate],
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(recipe=RECIPES)
def test_any_answer_to_a_read_raises_nothing_and_hurts_no_neighbour(hubspot: Both, recipe: Recipe) -> None:
    forget_everything(hubspot)
    address, content = address_of("ada"), recipe.content
    if isinstance(content, str):
        content = {"status": "COMPLETE", "results": [holder(address, nerava_user_id="grace")]}
        for seed, junk in recipe.changes:
            content = changed(content, Random(seed), junk)
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    Reads(hubspot, {address: http(recipe.status, body, recipe.headers)})
    hubspot.peer.upserts.clear()
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    ada = hubspot.sign_up("ada", email=address)
    neighbours = [hubspot.sign_up(driver, email=address_of(driver)) for driver in HEALTHY]
    try:
        hubspot.deliver()
    finally:
        logging.getLogger().removeHandler(complaints)
    assert [said for said in complaints.said if " failed: " not in said] == []
    assert all(hubspot.is_delivered(event) for event in neighbours)
    assert len(hubspot.peer.upserts) < 20
    if 200 <= recipe.status < 300 or recipe.status in (400, 409, 413, 423) or recipe.status >= 500:
        assert hubspot.gate().state is GateState.OPEN
    else:
        assert hubspot.row(ada).attempt_count == 0 or recipe.status in (404, 414)
