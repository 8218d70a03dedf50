"""A destination over HTTP: it applies each request as it arrives, keeps a journal, and can be late with its answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

from tests.soak.chaos.worker import REQUEST_TIMEOUT_SECONDS

_LATENCY_SECONDS = (0.02, 0.25)
_LATE_SECONDS = REQUEST_TIMEOUT_SECONDS + 1


@dataclass(frozen=True, slots=True)
class Sent:
    """An event as a request carried it: the `n`-th of its subject."""

    id: int
    subject: str
    n: int


@dataclass(frozen=True, slots=True)
class Request:
    """`left_at` is when its sender had leave to send it, by the monotonic clock, and `arrived_at` when it was applied.

    `is_answered_late`: whoever sent it had stopped waiting.
    """

    worker: str
    token: str
    left_at: float
    arrived_at: float
    events: tuple[Sent, ...]
    is_answered_late: bool


class Destination:
    def __init__(self, seed: int) -> None:
        self.journal: list[Request] = []
        self.state: dict[str, int] = {}
        self._random = Random(seed)
        self._late_ones = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="destination", daemon=True).start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def be_late(self, requests: int) -> None:
        """Answer the next requests when nobody waits any more; each is applied before that, at once or only then."""
        with self._lock:
            self._late_ones = requests

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, body: dict[str, Any]) -> None:
        """Apply a request, and return when it is to be answered."""
        with self._lock:
            is_late = self._late_ones > 0
            self._late_ones -= is_late
            wait = _LATE_SECONDS if is_late else self._random.uniform(*_LATENCY_SECONDS)
            is_applied_first = self._random.random() < 0.5
        if not is_applied_first:
            time.sleep(wait)
        self._apply(body, is_late)
        if is_applied_first:
            time.sleep(wait)

    def _apply(self, body: dict[str, Any], is_late: bool) -> None:
        events = tuple(Sent(**it) for it in body["events"])
        with self._lock:
            self.journal.append(Request(body["worker"], body["token"], body["left_at"], time.time(), events, is_late))
            self.state |= {it.subject: it.n for it in events}


def _handler_of(destination: Destination) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if len(body) < int(self.headers["Content-Length"]):
                self.close_connection = True
                return
            destination.take(json.loads(body))
            try:
                self.send_response(204)
                self.end_headers()
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle(self) -> None:
            # One whose worker was killed ends so.
            with suppress(ConnectionError):
                super().handle()

    return Handler


@contextmanager
def run_destination(seed: int) -> Iterator[Destination]:
    destination = Destination(seed)
    try:
        yield destination
    finally:
        destination.close()
