"""A peer in HubSpot's place that says whatever a test wants, byte for byte, on the loopback interface."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from sqlalchemy import Engine

from tests.hubspot.conftest import PORTAL_ID, HubSpot, settings_for

ACCOUNT = {"portalId": int(PORTAL_ID), "accountType": "SANDBOX", "timeZone": "UTC"}
KEPT_ALIVE = b"Connection: keep-alive"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: Any

    @property
    def inputs(self) -> list[dict[str, Any]]:
        inputs: list[dict[str, Any]] = self.body["inputs"]
        return inputs


def http(
    status: int, body: object = b"", headers: Mapping[str, str] | Sequence[tuple[str, str]] = (), **more: str
) -> bytes:
    """An answer with a right length; `body` is JSON unless it is bytes."""
    is_json = not isinstance(body, bytes)
    content = json.dumps(body).encode() if is_json else body
    assert isinstance(content, bytes)
    # Or the next request could meet the connection while it is being closed.
    lines = [("Content-Length", str(len(content))), ("Connection", "close"), *dict(headers).items(), *more.items()]
    if is_json:
        lines.append(("Content-Type", "application/json"))
    phrase = HTTPStatus(status).phrase if status in {*HTTPStatus} else "Whatever"
    head = f"HTTP/1.1 {status} {phrase}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines)
    return head.encode("latin-1") + b"\r\n" + content


def written(inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The body of a success that names every input."""
    results = [
        {"id": str(n), "objectWriteTraceId": one["objectWriteTraceId"], "properties": one["properties"]}
        for n, one in enumerate(inputs, 1)
    ]
    return {"status": "COMPLETE", "results": results}


def accept(request: Request) -> bytes:
    return http(200, written(request.inputs))


@dataclass
class Peer:
    """Answers the look at the account truly, unless `account` says otherwise, and upserts as `answer` says.

    After an answer it closes the connection, unless the answer says that it is KEPT_ALIVE.
    """

    port: int = 0
    answer: Callable[[Request], bytes] = accept
    account: Callable[[Request], bytes] = lambda _: http(200, ACCOUNT)
    upserts: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def respond(self, request: Request) -> bytes:
        if not request.path.endswith("/batch/upsert"):
            return self.account(request)
        self.upserts.append(request)
        return self.answer(request)


class _Handler(socketserver.StreamRequestHandler):
    peer: Peer

    def handle(self) -> None:
        while KEPT_ALIVE in self._respond():
            """The next request comes by the same connection."""

    def _respond(self) -> bytes:
        try:
            method, path, _ = self.rfile.readline().decode().split()
            length = 0
            while (line := self.rfile.readline()).strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            content = self.rfile.read(length)
            answer = self.peer.respond(Request(method, path, json.loads(content or b"null")))
            self.wfile.write(answer)
        except (OSError, ValueError):
            # The client has heard enough.
            return b""
        return answer


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


@contextmanager
def peer_in_hubspots_place() -> Iterator[Peer]:
    peer = Peer()
    with _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"peer": peer})) as server:
        peer.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield peer
        server.shutdown()
        thread.join()


@dataclass
class Both(HubSpot):
    """Our end with the peer at the other: what needs a sandbox is not to be asked."""

    peer: Peer = field(default_factory=Peer)


def both_ends(engine: Engine, peer: Peer, **settings: object) -> Both:
    return Both(engine, None, settings_for(peer, **settings), peer)  # type: ignore[arg-type]
