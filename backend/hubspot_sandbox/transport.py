"""Answers that no well-behaved server gives, under uvicorn.

ASGI has no word for a reset or for half an answer. So the protocol class hands each request the transport it arrived
on, through the connection's state, and the responses here write to that.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

# Closing with a linger time of zero sends RST instead of FIN: the client sees "connection reset by peer".
_LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)
HUGE_BODY_BYTES = 64 * 1024 * 1024
_CHUNK = b" " * 65_536

Pause: TypeAlias = Callable[[float], Awaitable[None]]
"""Waits so many seconds, or less when the sandbox stops."""


class TransportInScope(H11Protocol):
    """Every request finds its transport in `request.state.transport`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in H11Protocol
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class Reset(Response):
    """No answer: the client's connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport: asyncio.Transport = scope["state"]["transport"]
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL)
        transport.abort()
        await _disconnected(receive)


class _Altered(Response):
    """Another response's status and headers; its body is sent in another way."""

    def __init__(self, whole: Response) -> None:
        super().__init__(b"", whole.status_code)
        self.whole = whole

    async def _send_head(self, send: Send, length: int) -> None:
        headers = [(name, value) for name, value in self.whole.raw_headers if name != b"content-length"]
        headers.append((b"content-length", str(length).encode()))
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})


class CutOff(_Altered):
    """The connection closes in the middle of the body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport: asyncio.Transport = scope["state"]["transport"]
        body = bytes(self.whole.body)
        head = b"".join(name + b": " + value + b"\r\n" for name, value in self.whole.raw_headers)
        transport.write(b"HTTP/1.1 %d \r\n%s\r\n" % (self.status_code, head) + body[: len(body) // 2])
        transport.close()
        await _disconnected(receive)


class Huge(_Altered):
    """The body is followed by spaces, which JSON allows, up to `HUGE_BODY_BYTES`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytes(self.whole.body).ljust(len(_CHUNK))
        chunks = (HUGE_BODY_BYTES - len(body)) // len(_CHUNK)
        await self._send_head(send, len(body) + chunks * len(_CHUNK))
        await send({"type": "http.response.body", "body": body, "more_body": True})
        for left in reversed(range(chunks)):
            await send({"type": "http.response.body", "body": _CHUNK, "more_body": left > 0})


class Dripping(_Altered):
    """The body comes byte by byte."""

    def __init__(self, whole: Response, seconds_between: float, pause: Pause) -> None:
        super().__init__(whole)
        self._seconds_between = seconds_between
        self._pause = pause

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytes(self.whole.body)
        await self._send_head(send, len(body))
        for i in range(len(body)):
            await send({"type": "http.response.body", "body": body[i : i + 1], "more_body": i + 1 < len(body)})
            await self._pause(self._seconds_between)


async def _disconnected(receive: Receive) -> None:
    """Return once uvicorn knows; before, it would take the missing answer for a bug and send a 500."""
    while (await receive())["type"] != "http.disconnect":
        pass
