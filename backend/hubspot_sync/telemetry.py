"""What is measured, for Prometheus. Counters are this process's; gauges of the outbox are read when they are asked for.

Nothing here holds back a delivery: what cannot be read is left out, and the labels' values are few by construction.
"""

from __future__ import annotations

import logging
import os
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus
from threading import Lock, Thread
from typing import assert_never

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from hubspot_sync.answer import Answer
from hubspot_sync.client import Call
from hubspot_sync.limits import DailyLimit
from sqlalchemy_outbox.database.server import limit_time
from sqlalchemy_outbox.model import GateState, Outbox, State
from sqlalchemy_outbox.operating.status import Snapshot, read_snapshot
from sqlalchemy_outbox.settling.settlement import Settled

log = logging.getLogger(__name__)

# Prometheus gives a scrape ten seconds.
READ_DEADLINE = timedelta(seconds=2)

_OUTCOMES = ("delivered", "dry_run", "retry", "failed", "postponed", "refused")
_NO_ANSWER = "none"
# HTTP's, HubSpot's own and those of its CDN.
_STATUSES = {*HTTPStatus, 477, 488, *range(520, 531)}
# HubSpot may invent more, and each would be a series for ever.
_CATEGORIES = {
    "CONFLICT",
    "DAILY",
    "EXPIRED_AUTHENTICATION",
    "INVALID_AUTHENTICATION",
    "MISSING_SCOPES",
    "OBJECT_ALREADY_EXISTS",
    "OBJECT_NOT_FOUND",
    "RATE_LIMITS",
    "SECONDLY",
    "TEN_SECONDLY_ROLLING",
    "VALIDATION_ERROR",
}

EVENTS_DELIVERED = Counter(
    "outbox_events_delivered", "Events that the destination confirmed; a dry run's are not among them.", ["outbox"]
)
EVENTS_FAILED = Counter(
    "outbox_events_failed", "Events that failed: rejected for good, or after their last attempt.", ["outbox"]
)
ATTEMPTS = Counter(
    "outbox_attempts",
    "Events that left a claim: delivered, dry_run, retry (charged an attempt), failed, postponed (not charged), "
    "refused (its subject was forgotten).",
    ["outbox", "outcome"],
)
LATENCY = Histogram(
    "outbox_delivery_latency_seconds",
    "From an event's commit to its confirmed delivery, by the database's clock.",
    ["outbox"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)
REQUESTS = Counter(
    "hubspot_requests",
    "Requests to HubSpot. status none: no usable answer came; category none: the answer names no error.",
    ["method", "endpoint", "status", "category"],
)
REQUEST_DURATION = Histogram(
    "hubspot_request_duration_seconds",
    "How long a request took, until its answer was read or given up.",
    ["method", "endpoint"],
    buckets=(0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1, 2, 5, 10),
)
# Labelled, so that there is no sample, and no alarming zero, before HubSpot has said anything.
REQUESTS_LEFT = Gauge(
    "hubspot_requests_left",
    "Requests left to the account in this window, as HubSpot's last answer said.",
    ["window"],
    multiprocess_mode="mostrecent",
)
REQUESTS_LIMIT = Gauge(
    "hubspot_requests_limit",
    "Requests that the account has in each window, as HubSpot's last answer said.",
    ["window"],
    multiprocess_mode="mostrecent",
)


def note_settled(outbox: Outbox) -> Callable[[Sequence[Settled]], None]:
    """For a worker's `on_settled`: count what became of its events. All outcomes begin at zero."""
    name = outbox.name
    delivered, failed, latency = EVENTS_DELIVERED.labels(name), EVENTS_FAILED.labels(name), LATENCY.labels(name)
    attempts = {outcome: ATTEMPTS.labels(name, outcome) for outcome in _OUTCOMES}

    def note(events: Sequence[Settled]) -> None:
        outcomes = [_outcome(event) for event in events]
        counts = Tally(outcomes)
        for outcome, count in counts.items():
            attempts[outcome].inc(count)
        delivered.inc(counts["delivered"])
        failed.inc(counts["failed"])
        for event, outcome in zip(events, outcomes, strict=True):
            if outcome == "delivered":
                latency.observe(event.age.total_seconds())

    return note


def note_call(call: Call) -> None:
    """For a client's `on_call`: count what its calls came to."""
    if call.answer is None:
        note_no_answer(call.method, call.endpoint, call.duration)
    else:
        note_answer(call.method, call.endpoint, call.answer, call.duration)


def note_answer(method: str, endpoint: str, answer: Answer, duration: timedelta) -> None:
    """Count a request that was answered, and keep what the answer says of the account's day."""
    REQUESTS.labels(method, endpoint, _status(answer), _category(answer)).inc()
    REQUEST_DURATION.labels(method, endpoint).observe(duration.total_seconds())
    if (daily := DailyLimit.read(answer.headers)) is not None:
        REQUESTS_LEFT.labels("day").set(daily.remaining)
        REQUESTS_LIMIT.labels("day").set(daily.maximum)


def note_no_answer(method: str, endpoint: str, duration: timedelta) -> None:
    REQUESTS.labels(method, endpoint, _NO_ANSWER, _NO_ANSWER).inc()
    REQUEST_DURATION.labels(method, endpoint).observe(duration.total_seconds())


class Exposition:
    """All metrics of the process, and the gauges of one outbox, as Prometheus reads them.

    Where PROMETHEUS_MULTIPROC_DIR is set, the counters are those of all processes that share it.
    """

    def __init__(self, engine: Engine, outbox: Outbox, *, deadline: timedelta = READ_DEADLINE) -> None:
        self._registry = CollectorRegistry()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]  # The library's gap.
        else:
            self._registry.register(_ThisProcess())
        self._registry.register(_OutboxGauges(engine, outbox, deadline))

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics in a format that `accept` names, and that format's media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    @contextmanager
    def served(self, port: int) -> Iterator[None]:
        """Meanwhile, answer on this port of the loopback interface; a port that cannot be had is logged."""
        try:
            server, thread = start_http_server(port, "127.0.0.1", self._registry)
        except OSError as error:
            log.error("No metrics: HUBSPOT_METRICS_PORT=%d cannot be listened on (%s).", port, error.strerror)
            yield
            return
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _ThisProcess:
    """What was registered in prometheus_client's own registry, the application's metrics included."""

    def collect(self) -> Iterator[Metric]:
        yield from REGISTRY.collect()


class _OutboxGauges:
    """Read at each scrape, by one reader at a time; after the deadline the scrape goes on without them."""

    def __init__(self, engine: Engine, outbox: Outbox, deadline: timedelta) -> None:
        self._engine = engine
        self._outbox = outbox
        self._deadline = deadline
        self._lock = Lock()
        self._reader: _Reader | None = None

    def collect(self) -> Iterator[Metric]:
        snapshot = self._read()
        name = self._outbox.name
        readable = GaugeMetricFamily(
            "outbox_readable",
            "Whether the database answered this scrape; if not, its gauges are missing.",
            None,
            ["outbox"],
        )
        readable.add_metric([name], float(snapshot is not None))
        yield readable
        if snapshot is not None:
            yield from _gauges(name, snapshot)

    def _read(self) -> Snapshot | None:
        with self._lock:
            if self._reader is None or not self._reader.is_alive():
                self._reader = _Reader(self._engine, self._outbox, self._deadline)
                self._reader.start()
            reader = self._reader
        reader.join(self._deadline.total_seconds())
        return reader.snapshot


class _Reader(Thread):
    """Reads the outbox once. A daemon, so that a database which never answers does not keep the process alive."""

    def __init__(self, engine: Engine, outbox: Outbox, deadline: timedelta) -> None:
        super().__init__(name="outbox-metrics", daemon=True)
        self._engine = engine
        self._outbox = outbox
        self._deadline = deadline
        self.snapshot: Snapshot | None = None

    def run(self) -> None:
        try:
            with self._engine.connect() as connection:
                limit_time(connection, self._deadline)
                self.snapshot = read_snapshot(connection, self._outbox)
        except (DBAPIError, PoolTimeout) as error:
            log.debug("The outbox could not be read for a scrape: %s", type(error).__name__)


def _gauges(name: str, snapshot: Snapshot) -> Iterator[Metric]:
    events = GaugeMetricFamily("outbox_events", "Events that are not delivered, by state.", None, ["outbox", "state"])
    counts = {State.PENDING: snapshot.pending, State.CLAIMED: snapshot.claimed, State.FAILED: snapshot.failed}
    for state, count in counts.items():
        events.add_metric([name, state.value], count)
    yield events
    oldest = GaugeMetricFamily(
        "outbox_oldest_pending_seconds",
        "Since when the oldest event waits that is neither delivered, failed nor set apart; 0 when none does. Of those "
        "that were stored by a clock that ran ahead, by how much it did.",
        None,
        ["outbox"],
    )
    oldest.add_metric([name], snapshot.oldest_pending_seconds or 0.0)
    yield oldest
    waiting = GaugeMetricFamily(
        "outbox_waiting_events",
        "Events that are set apart until the destination has what they need; pending ones, which no lag shows.",
        None,
        ["outbox"],
    )
    waiting.add_metric([name], float(sum(wait.events for wait in snapshot.waiting)))
    yield waiting
    refused = GaugeMetricFamily(
        "outbox_refused_events",
        "Events of subjects that were forgotten; they hold nothing of a person, and are not among the failed ones.",
        None,
        ["outbox"],
    )
    refused.add_metric([name], float(snapshot.refused))
    yield refused
    forgetting = GaugeMetricFamily(
        "outbox_open_erasures", "Subjects that were forgotten and are not erased everywhere yet.", None, ["outbox"]
    )
    forgetting.add_metric([name], float(snapshot.forgetting))
    yield forgetting
    gate = GaugeMetricFamily("outbox_gate_state", "1 for the state that the gate is in.", None, ["outbox", "state"])
    for state_ in GateState:
        gate.add_metric([name, state_.value], float(snapshot.gate.state is state_))
    yield gate


def _outcome(event: Settled) -> str:
    settlement = event.settlement
    match settlement.state:
        case State.DELIVERED:
            return "dry_run" if settlement.dry_run else "delivered"
        case State.FAILED:
            return "refused" if event.is_refusal else "failed"
        case State.PENDING | State.CLAIMED:
            return "retry" if event.is_charged else "postponed"
        case _:
            assert_never(settlement.state)


def _status(answer: Answer) -> str:
    """One that HTTP or HubSpot knows; of another only its class, as there may be hundreds."""
    return str(answer.status) if answer.status in _STATUSES else f"{answer.status // 100}xx"


def _category(answer: Answer) -> str:
    category = answer.category
    if category is None:
        return "none"
    return category if category in _CATEGORIES else "other"
