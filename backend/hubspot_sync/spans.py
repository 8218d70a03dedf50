"""What a trace shows of a request to HubSpot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from opentelemetry.trace import Span, Status, StatusCode

from hubspot_sync.record import UPSERT
from hubspot_sync.translation import ContactUpsert
from sqlalchemy_outbox.settling.deliveries import Delivery
from sqlalchemy_outbox.tracing import delivery_span


def upsert_span(upserts: Sequence[ContactUpsert]) -> AbstractContextManager[Span]:
    """A span linked to those in which the events were tracked."""
    return delivery_span(f"POST {UPSERT}", (event.traceparent for upsert in upserts for event in upsert.events))


def describe(span: Span, delivery: Delivery) -> None:
    """Set the span's attributes; its names are OpenTelemetry's where it has one."""
    if not span.is_recording():
        return
    span.set_attributes(
        {
            "http.request.method": "POST",
            "messaging.batch.message_count": len(delivery.outcomes),
            "outbox.outcome": delivery.outcome,
        }
    )
    if delivery.status is not None:
        span.set_attribute("http.response.status_code", delivery.status)
    if delivery.correlation_id is not None:
        span.set_attribute("hubspot.correlation_id", delivery.correlation_id)
    if delivery.error is not None:
        span.set_status(Status(StatusCode.ERROR, delivery.error))
