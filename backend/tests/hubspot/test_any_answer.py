"""Any answer, through the real path: nothing raises, the gate is as its status says, and only the named are charged.

What an answer's status says is measured by the same path: it is what the plain answer of that status comes to.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete

from app.models import OUTBOX
from sqlalchemy_outbox.model import GateState
from tests.conftest import url_of_kind
from tests.hubspot.peer import Both, Request, both_ends, http, peer_in_hubspots_place, written

EXAMPLES = int(os.environ.get("ANY_ANSWER_EXAMPLES", "20"))
SUCCESSES = (200, 201, 204, 207)
REFUSALS = (302, 304, 307, 400, 401, 402, 403, 404, 405, 409, 413, 414, 422, 423, 429, 477, 488)
NO_ANSWERS = (408, 425, 500, 502, 503, 524, 599, 999)
# What an answer about inputs may say of everybody.
SCHEMA = (b"PROPERTY_DOESNT_EXIST", b"READ_ONLY_VALUE", b"Unable to")
LIMITS = (b"RATE_LIMITS",)

WORDS = st.sampled_from(
    [
        *(
            "",
            "VALIDATION_ERROR",
            "CONFLICT",
            "OBJECT_NOT_FOUND",
            "RATE_LIMITS",
            "MISSING_SCOPES",
            "COMPLETE",
            "CANCELED",
        ),
        *("PROPERTY_DOESNT_EXIST", "INVALID_EMAIL", "DAILY", "gdpr", "\ud800", "a\0", "9" * 400, "ada@example.com"),
        *("Contact already exists. Existing ID: 7", "Property values were not valid: [{"),
        "Unable to infer object type from",
    ]
)
NAMES = st.sampled_from(
    ["status", "category", "code", "message", "errors", "results", "context", "id", "objectWriteTraceId", "policyName"]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=20)
TREES = st.recursive(
    LEAVES, lambda trees: st.lists(trees, max_size=4) | st.dictionaries(NAMES, trees, max_size=5), max_leaves=12
)
BYTES = st.sampled_from([b"", b"<html>", b"{", b"[" * 2000, b'{"a":' * 700 + b"1" + b"}" * 700]) | st.binary(
    max_size=60
)
HEADER_NAMES = st.sampled_from(
    [
        *("Retry-After", "Location", "Content-Type", "X-HubSpot-Correlation-Id", "Set-Cookie", "Content-Encoding"),
        *("X-HubSpot-RateLimit-Max", "X-HubSpot-RateLimit-Interval-Milliseconds", "Transfer-Encoding", "Date"),
    ]
)
HEADER_VALUES = st.sampled_from(
    ["", "0", "-1", "inf", "-inf", "-1e300", "1e300", "http://[", "//a:b", "chunked", "gzip", "text/html"]
)
HEADERS = st.dictionaries(
    HEADER_NAMES,
    HEADER_VALUES
    | st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=12),
    max_size=3,
)


@dataclass(frozen=True)
class Recipe:
    """An answer to whatever inputs there are: bytes, a JSON tree, or a real answer with some of it changed."""

    status: int
    headers: dict[str, str]
    content: object
    changes: list[tuple[int, object]] = field(default_factory=list)

    def answer(self, request: Request) -> bytes:
        content = self.content
        if isinstance(content, str):
            content = real_body(content, request)
            for seed, junk in self.changes:
                content = changed(content, Random(seed), junk)
        return http(self.status, content if isinstance(content, bytes) else json.dumps(content).encode(), self.headers)


CHANGES = st.tuples(st.integers(0, 1000), TREES)
STATUSES = st.sampled_from([*SUCCESSES, *REFUSALS, *NO_ANSWERS]) | st.integers(200, 599)
# Each of these is where something of an answer is read that the others do not have.
RECIPES = st.one_of(
    st.builds(Recipe, st.sampled_from([429, 477]), st.fixed_dictionaries({"Retry-After": HEADER_VALUES}), BYTES),
    st.builds(Recipe, st.sampled_from([301, 302, 307]), st.fixed_dictionaries({"Location": HEADER_VALUES}), BYTES),
    st.builds(
        Recipe,
        st.sampled_from([400, 401, 403, 429, 503]),
        st.just({}),
        st.fixed_dictionaries(
            {"message": WORDS, "category": WORDS}, optional={"errors": st.lists(TREES), "code": WORDS}
        ),
    ),
    st.builds(
        Recipe,
        st.sampled_from(SUCCESSES),
        HEADERS,
        st.sampled_from(["all", "some", "none but one"]),
        st.lists(CHANGES, max_size=3),
    ),
    st.builds(Recipe, STATUSES, HEADERS, BYTES | TREES.filter(lambda tree: not isinstance(tree, str))),
    st.builds(Recipe, STATUSES, HEADERS, st.just("refused"), st.lists(CHANGES, max_size=3)),
)


def real_body(kind: str, request: Request) -> dict[str, Any]:
    """As the sandbox answers: everyone is written; one is wrong; some are left out; or the whole is refused."""
    first, *others = request.inputs
    error = {"category": "VALIDATION_ERROR", "message": "no", "context": {"id": [first["id"]]}, "errors": []}
    match kind:
        case "all":
            return written(request.inputs)
        case "none but one":
            return written([first])
        case "some":
            return written(others) | {"errors": [error], "numErrors": 1}
        case _:
            detail = {"code": "INVALID_EMAIL", "message": "no", "context": {"propertyName": ["email"]}}
            return {"status": "error", "category": "VALIDATION_ERROR", "message": "no", "errors": [detail]}


def changed(tree: object, random: Random, junk: object) -> object:
    """The tree with one of its nodes replaced, left out, or there twice."""
    if not isinstance(tree, dict | list) or not tree or random.random() < 0.1:
        return junk
    places = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    place = random.choice(places)
    if random.random() < 0.6:
        return _with(tree, place, changed(tree[place], random, junk))
    if isinstance(tree, list) and random.random() < 0.5:
        return [*tree, *tree]
    if isinstance(tree, dict):
        return {name: value for name, value in tree.items() if name != place}
    return [value for n, value in enumerate(tree) if n != place]


def _with(tree: Any, place: Any, value: object) -> Any:
    copy = tree.copy()
    copy[place] = value
    return copy


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    return url_of_kind(request, sqlite="migrated_sqlite_url", postgresql="migrated_postgres_url")


@pytest.fixture
def hubspot(engine: Engine) -> Iterator[Both]:
    with peer_in_hubspots_place() as peer:
        yield both_ends(engine, peer)


class Complaints(logging.Handler):
    """What is logged of an exception or of a failure of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            self.said.append(ascii(logging.Formatter().format(record)))


@dataclass
class Played:
    """What became of events that met one kind of answer: which were charged and delivered, and how the gate is."""

    attempts: dict[UUID, int]
    delivered: dict[UUID, bool]
    gate: GateState
    is_outage: bool
    complaints: list[str]

    @property
    def end(self) -> str:
        return "outage" if self.is_outage else self.gate.value


def forget_everything(hubspot: Both) -> None:
    with hubspot.engine.begin() as connection:
        for table in reversed(OUTBOX.events.metadata.sorted_tables):
            if table.name.startswith(OUTBOX.name):
                connection.execute(delete(table))


def play(hubspot: Both, recipe: Recipe, count: int) -> Played:
    forget_everything(hubspot)
    hubspot.peer.upserts.clear()
    hubspot.peer.answer = recipe.answer
    events = [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(count)]
    complaints = Complaints()
    root = logging.getLogger()
    root.addHandler(complaints)
    try:
        hubspot.deliver()
    finally:
        root.removeHandler(complaints)
    rows = {event: hubspot.row(event) for event in events}
    gate = hubspot.gate()
    return Played(
        {event: row.attempt_count for event, row in rows.items()},
        {event: row.processed_at is not None for event, row in rows.items()},
        gate.state,
        (gate.reason or "").startswith("outage"),
        complaints.said,
    )


def allowed_ends(recipe: Recipe, content: bytes, plain: str) -> set[str]:
    """The plain answer's; and where a status leaves a choice, what the body chose."""
    inputs_are_judged = recipe.status in (*range(200, 300), 400)
    more = {"held"} if inputs_are_judged and any(word in content for word in SCHEMA) else set()
    if 200 <= recipe.status < 300:
        return {plain, "open", *more} | ({"throttled"} if any(word in content for word in LIMITS) else set())
    if recipe.status in (400, 404):
        return {plain, "open", *more}
    if recipe.status == 403:
        is_json = content.lstrip()[:1] in (b"{", b"[")
        return {"held"} if is_json else {"held", "outage"}
    return {plain}


def is_about_it_alone(event: str, request: Request, status: int, body: object) -> bool:
    """Names it, or names all its neighbours and leaves it out, or there are no neighbours."""
    inputs = {one["objectWriteTraceId"]: one for one in request.inputs}
    if event not in inputs:
        return False
    if len(inputs) == 1:
        return True
    if not 200 <= status < 300 or not isinstance(body, dict):
        return False
    named: list[set[str]] = [_named(error, inputs) for error in _dicts(body.get("errors"))]
    done = [_named({"context": result}, inputs) | _written(result, inputs) for result in _dicts(body.get("results"))]
    others = set().union(*named, *done) - {event}
    return {event} in named or (
        others == inputs.keys() - {event} and not any(event in names for names in (*named, *done))
    )


def _named(error: Mapping[str, Any], inputs: Mapping[str, Any]) -> set[str]:
    context = error.get("context")
    texts: set[object] = set()
    for key in ("objectWriteTraceId", "id", "ids") if isinstance(context, dict) else ():
        values = context.get(key)
        texts.update(value for value in (values if isinstance(values, list) else [values]) if isinstance(value, str))
    return {trace_id for trace_id, one in inputs.items() if trace_id in texts or one["id"] in texts}


def _written(result: Mapping[str, Any], inputs: Mapping[str, Any]) -> set[str]:
    properties = result.get("properties")
    values = [value for value in properties.values() if isinstance(value, str)] if isinstance(properties, dict) else []
    return {
        trace_id
        for trace_id, one in inputs.items()
        if any(one["properties"][name] in map(str.strip, values) for name in ("email", "nerava_user_id"))
    }


def _dicts(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _json(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


@settings(
    max_examples=EXAMPLES,
    phases=[Phase.generate] if "ANY_ANSWER_EXAMPLES" in os.environ else list(Phase),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(recipe=RECIPES, count=st.integers(1, 3))
def test_any_answer_raises_nothing_and_has_the_consequence_of_its_status(
    hubspot: Both, recipe: Recipe, count: int
) -> None:
    plain = play(hubspot, Recipe(recipe.status, {}, b""), count)
    played = play(hubspot, recipe, count)
    asked = list(hubspot.peer.upserts)
    answers = [recipe.answer(request).partition(b"\r\n\r\n")[2] for request in asked]
    assert played.complaints == []
    assert all(played.end in allowed_ends(recipe, content, plain.end) for content in answers[-1:]), played
    for event, attempts in played.attempts.items():
        if attempts:
            about = zip(asked, map(_json, answers), strict=True)
            assert any(is_about_it_alone(str(event), request, recipe.status, body) for request, body in about)
    if not 200 <= recipe.status < 300:
        assert not any(played.delivered.values())
