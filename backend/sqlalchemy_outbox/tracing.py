"""The trace of the request that enqueued an event goes on where the event is delivered.

    request's span ─ traceparent in the event's row ─▶ a link of the span of each delivery that carries it

One delivery carries the events of many requests, so they are its links and not its parents. Only OpenTelemetry's API is
used: without an SDK no span is made, and nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from opentelemetry.trace import Link, Span, SpanKind, get_current_span, get_tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACER = get_tracer("outbox")
# The events hold W3C's form, whatever the application propagates in its own requests.
_W3C = TraceContextTextMapPropagator()
_FIELD = "traceparent"
# OpenTelemetry's SDK keeps no more unless told.
_LINKS_MAX = 128


def current_traceparent() -> str | None:
    """The span in which the caller is, in W3C's form; None outside of one."""
    return traceparent_of(get_current_span())


def traceparent_of(span: Span) -> str | None:
    """This span in W3C's form; None of one that no SDK made."""
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@contextmanager
def delivery_span(name: str, traceparents: Iterable[str | None]) -> Iterator[Span]:
    """A span for one request to the destination, linked to the spans that enqueued the events it carries."""
    links = [it for traceparent in dict.fromkeys(traceparents) if (it := _link(traceparent)) is not None]
    with _TRACER.start_as_current_span(name, kind=SpanKind.CLIENT, links=links[:_LINKS_MAX]) as span:
        yield span


def _link(traceparent: str | None) -> Link | None:
    if traceparent is None:
        return None
    context = get_current_span(_W3C.extract({_FIELD: traceparent})).get_span_context()
    return Link(context) if context.is_valid else None
