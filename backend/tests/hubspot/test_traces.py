"""The request that tracked an event, and the delivery that carried it, can be followed from one to the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sqlalchemy_outbox import tracing
from sqlalchemy_outbox.operations import EventIds, read_history, retry
from tests.hubspot.conftest import HubSpot

TRACER = "tests"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """An application that installed an SDK. The global provider can be set once in a process, so it is not."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("outbox"))
    monkeypatch.setattr(trace, "get_tracer", lambda name: provider.get_tracer(name))
    yield exporter
    provider.shutdown()


def sent(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return [it for it in spans.get_finished_spans() if it.name.startswith("POST")]


def test_delivery_is_linked_to_each_request_whose_events_it_carries(
    hubspot: HubSpot, spans: InMemorySpanExporter
) -> None:
    requests = []
    for n in range(3):
        with trace.get_tracer(TRACER).start_as_current_span(f"request {n}") as span:
            hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com")
            hubspot.earn(f"driver-{n}", 1)
            requests.append(span.get_span_context())
    outside = hubspot.sign_up("driver-3", email="driver-3@example.com")
    hubspot.deliver()
    [delivery] = sent(spans)
    assert [(it.context.trace_id, it.context.span_id) for it in delivery.links] == [
        (it.trace_id, it.span_id) for it in requests
    ]
    assert delivery.parent is None
    assert dict(delivery.attributes or {}) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "messaging.batch.message_count": 7,
        "outbox.outcome": "delivered",
        **{key: value for key, value in (delivery.attributes or {}).items() if key == "hubspot.correlation_id"},
    }
    history = read_history(hubspot.engine, hubspot.integration.outbox, outside)
    assert history is not None
    assert history.event.traceparent is None
    assert delivery.context is not None
    assert f"{delivery.context.span_id:016x}" in (history.deliveries[0].traceparent or "")


def test_retried_event_keeps_its_link(hubspot: HubSpot, spans: InMemorySpanExporter) -> None:
    hubspot.sandbox.faults.add("input_refused", contact="ada@example.com", requests=1)
    with trace.get_tracer(TRACER).start_as_current_span("request") as span:
        event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    assert hubspot.row(event_id).failed_at
    list(
        retry(hubspot.engine, hubspot.integration.outbox, EventIds(frozenset({event_id})), ["driver_signed_up"], by="t")
    )
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    first, again = sent(spans)
    for delivery in (first, again):
        assert [it.context.span_id for it in delivery.links] == [span.get_span_context().span_id]


def test_request_without_an_answer_is_an_error_that_names_no_person(
    hubspot: HubSpot, spans: InMemorySpanExporter
) -> None:
    hubspot.sandbox.faults.add("server_error", requests=1, path="/batch/upsert")
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    failed, delivered = sent(spans)
    assert not failed.status.is_ok
    assert delivered.status.is_ok or delivered.status.status_code.name == "UNSET"
    assert "ada@" not in failed.to_json()


def test_without_an_sdk_nothing_is_stored(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    assert hubspot.row(event_id).traceparent is None
