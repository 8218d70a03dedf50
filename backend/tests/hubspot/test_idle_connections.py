"""A connection that HubSpot closes while nobody uses it costs no request its answer."""

from __future__ import annotations

import asyncio
import ssl
from datetime import timedelta

from hubspot_sync.exchange import Exchange

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def test_connection_that_was_closed_while_idle_is_not_used_again() -> None:
    closed = asyncio.Event()
    connections = 0

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with await asyncio.start_server(answer_once, "127.0.0.1", 0) as server:
        url = "http://{}:{}".format(*server.sockets[0].getsockname())
        deadline = timedelta(seconds=10)
        async with Exchange(url, ssl.create_default_context(), connections=1, deadline=deadline) as exchange:
            for _ in range(3):
                closed.clear()
                raw = await exchange.ask("GET", "/", {}, None, lambda _: 1000)
                assert (raw.status, raw.body) == (200, b"{}")
                await closed.wait()
    assert connections == 3
