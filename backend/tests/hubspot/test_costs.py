"""What a delivery does is counted, not timed: how often, and that it grows no faster than the events do."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.events import CATALOG
from hubspot_sync.answer import BYTES_JUDGED_AT_ONCE, Answer
from hubspot_sync.classification import Settled, Written, classify
from hubspot_sync.record import record_upsert
from hubspot_sync.redaction import Redaction
from hubspot_sync.translation import ContactUpsert, requests, translate
from sqlalchemy_outbox.model import Event

NOW = datetime(2026, 11, 24, 18, tzinfo=UTC)


class CountedRedaction(Redaction):
    """Counts the texts that it goes through."""

    count = 0

    def __call__(self, text: str) -> str:
        self.count += 1
        return super().__call__(text)


class Key(str):
    """Counts how often it is compared with another one."""

    __slots__ = ()
    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Key.comparisons += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def upserts_of(drivers: int) -> list[ContactUpsert]:
    events = []
    for n in range(drivers):
        payload = {"user_id": f"driver-{n}", "email": f"driver-{n}@example.com", "created_at": "2026-11-24T18:00:00Z"}
        text = json.dumps(payload)
        events.append(Event(n, uuid4(), "driver_signed_up", f"driver-{n}", text, NOW, 0, None, None, None))
    return translate(events, CATALOG).upserts


def answer_to(upserts: list[ContactUpsert], redaction: Redaction, record_id: str = "1000000") -> Answer:
    results = [
        {"id": f"{record_id}{n}", "objectWriteTraceId": upsert.trace_id, "properties": upsert.properties}
        for n, upsert in enumerate(upserts)
    ]
    headers = {"x-hubspot-correlation-id": "0194a6f0-7a3b"}
    return Answer(200, headers, {"status": "COMPLETE", "results": results}, redaction)


@pytest.mark.parametrize("drivers", [2, 100])
def test_success_is_redacted_a_few_times_however_many_contacts_it_confirms(drivers: int) -> None:
    upserts = upserts_of(drivers)
    redaction = CountedRedaction([value for upsert in upserts for value in upsert.personal_values])
    answer = answer_to(upserts, redaction)
    verdict = classify(answer, upserts, now=NOW, time_zone=None)
    assert isinstance(verdict, Settled)
    record = record_upsert(upserts, time.monotonic(), verdict, answer)
    assert len(record.outcomes) == drivers
    # The record ids, the status, and the correlation id of the body and of the headers.
    assert redaction.count <= 4


def test_record_id_that_holds_what_names_a_person_is_redacted_alone() -> None:
    upserts = upserts_of(3)
    answer = answer_to(upserts, Redaction(["70000001"]), record_id="7000000")
    verdict = classify(answer, upserts, now=NOW, time_zone=None)
    assert isinstance(verdict, Settled)
    findings = [verdict.findings[upsert.trace_id] for upsert in upserts]
    assert findings == [Written("70000000"), Written("[personal]"), Written("70000002")]


def success(results: int, *, id_chars: int = 11, **besides: object) -> Answer:
    found = [
        {"id": "1" * id_chars, "objectWriteTraceId": f"t{n}", "properties": {"p": "v" * 700}} for n in range(results)
    ]
    body = {"status": "COMPLETE", "results": found, **besides}
    return Answer(200, {}, body, bytes_read=len(json.dumps(body)))


def test_honest_answer_to_a_full_batch_is_judged_without_a_thread() -> None:
    answer = success(100)
    assert answer.bytes_read > BYTES_JUDGED_AT_ONCE
    assert not answer.is_large


@pytest.mark.parametrize(
    "answer",
    [
        success(100, errors=[{"category": "VALIDATION_ERROR"}]),
        success(100, id_chars=100),
        success(200),
        Answer(400, {}, {"message": "word " * 8000}, bytes_read=40_000),
        Answer(200, {}, ["no batch"], bytes_read=40_000),
    ],
    ids=["errors", "long ids", "too long to be read at once", "a refusal", "no batch"],
)
def test_answer_whose_words_are_looked_into_is_judged_in_a_thread(answer: Answer) -> None:
    assert answer.is_large


WHOLE = ("ada@example.com", "pat-na1-secret", "+49 30", " 123456", "Bearer ", "[personal]", "9" * 4000, "\0", "\ud800")
PARTS = ("pat-na", "na1-s", "0301", "234", "x", "\n", " ", "ada@", "example.com", "-")
PIECES = st.sampled_from([*WHOLE, *PARTS])
TEXTS = st.lists(st.lists(PIECES, max_size=4).map("".join), max_size=5)


@settings(max_examples=200, deadline=None, database=None)
@given(texts=TEXTS, values=st.lists(st.sampled_from(["0301234", "ada@", "xx", "\n", "x\nx x", "personal"]), max_size=3))
def test_texts_are_shown_together_as_each_is_shown_alone(texts: list[str], values: list[str]) -> None:
    redaction = Redaction(values, token="pat-na1-secret")
    assert redaction.shown_each(texts, 100) == [redaction.shown(text, 100) for text in texts]


def test_dividing_into_requests_compares_no_input_with_each_other() -> None:
    upserts = upserts_of(100)
    for upsert in upserts:
        object.__setattr__(upsert, "key", Key(upsert.key))
    Key.comparisons = 0
    assert [len(request) for request in requests(upserts)] == [100]
    assert Key.comparisons <= 100
