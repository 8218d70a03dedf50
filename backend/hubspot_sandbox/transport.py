"""Resetting a connection instead of answering, under uvicorn.

ASGI has no word for it: an application can only answer. So the protocol class hands each request the transport it
arrived on, through the connection's state, and `Reset` is a response that uses it.
"""

import asyncio
import socket
import struct

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

# Closing with a linger time of zero sends RST instead of FIN: the client sees "connection reset by peer".
_LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)


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


async def _disconnected(receive: Receive) -> None:
    """Return once uvicorn knows; before, it would take the missing answer for a bug and send a 500."""
    while (await receive())["type"] != "http.disconnect":
        pass
