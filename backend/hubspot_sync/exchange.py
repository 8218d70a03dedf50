"""One request and one answer by HTTP. A status that has come survives whatever follows it.

    request ─▶ connection pool ─▶ _WatchedStream ─▶ network
                    │                   └ keeps the answer's head, counts what follows, stops it at its bound
                    └ may refuse the answer (headers that contradict each other, a chunk that is none): the status stays

Neither redirects nor cookies are looked at: reading them is how a header can break a client.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import httpcore2
import httpx2

CONNECT_TIMEOUT = timedelta(seconds=3)
# HubSpot's and its CDN's headers are a few KiB. Parsing them is one step of the event loop.
HEAD_BYTES_MAX = 16 * 1024
# What is read at once is parsed in one step: of chunks with a byte each, this much takes some 5 ms.
READ_BYTES_MAX = 4 * 1024
# A body that does not come in chunks is not parsed, and each read costs some 100 µs.
READ_BYTES_MAX_UNPARSED = 64 * 1024
# Each part costs some 10 µs, however short it is. An honest answer comes in parts of a KiB or more.
PARTS_MAX = 8 * 1024

# An interim answer (1xx) may precede it.
_STATUS_LINE = re.compile(rb"(?:\A|\r?\n\r?\n)HTTP/1\.[01] ([2-9]\d\d)[^\n]*\n")
_BLANK_LINE = re.compile(rb"\n\r?\n")

_NETWORK_ERRORS = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
    OSError,
)


# For whoever reads why the gate is shut; the first that fits.
_IN_WORDS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (ssl.SSLCertVerificationError, "nobody vouches for the certificate"),
    (ssl.SSLError, "no TLS could be agreed on"),
    (socket.gaierror, "the host's name could not be looked up"),
    ((httpcore2.ConnectTimeout, httpcore2.PoolTimeout), "no connection in time"),
    (httpcore2.ConnectError, "no connection"),
    ((httpcore2.TimeoutException, TimeoutError), "no answer in time"),
    (httpcore2.NetworkError, "the connection was cut off"),
    (httpcore2.ProxyError, "the proxy refused the connection"),
    (httpcore2.ProtocolError, "the answer was cut off, or is no HTTP"),
    (httpcore2.UnsupportedProtocol, "HUBSPOT_BASE_URL is no address of http or https"),
)


class Unanswered(Exception):
    """No status came, or the body of a success was cut off on the way. Its text says how that was."""


class _TooLong(Exception):
    """The answer's head, or what follows it, goes on beyond its bound."""


class _Stale(Exception):
    """The answer was there before its request."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """`headers` are named in lower case. `body` is None when it could not be read to its end; `is_too_long` when that
    was for its length.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    is_too_long: bool = False


class Exchange:
    """An async context manager over one connection pool. TLS is verified.

    `deadline` is for all of a request: the timeouts of the pool begin anew with each byte.
    """

    def __init__(self, base_url: str, tls: ssl.SSLContext, *, connections: int, deadline: timedelta) -> None:
        self._base_url = httpx2.URL(base_url)
        # Most requests go to one path, and to make its URL takes as long as to write the request.
        self._url_of = lru_cache(maxsize=32)(self._make_url)
        self._deadline = deadline
        seconds = deadline.total_seconds()
        connect = CONNECT_TIMEOUT.total_seconds()
        self._timeouts = {"connect": connect, "read": seconds, "write": seconds, "pool": seconds}
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=5.0,
            network_backend=_WatchedNetwork(),
        )

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.__aexit__(kind, error, trace)

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, bytes_max: Callable[[int], int]
    ) -> RawAnswer:
        """Make a request; `bytes_max` says by its status how long the answer may be. Raises Unanswered."""
        request = self._request(method, path, headers, body)
        watch = _Watch(bytes_max)
        watching = _WATCH.set(watch)
        received: Mapping[str, str] = {}
        try:
            async with asyncio.timeout(self._deadline.total_seconds()):
                response = await self._pool.handle_async_request(request)
                try:
                    watch.expect(response.status)
                    received = dict(httpx2.Headers(response.headers).items())
                    content = await _read(response)
                finally:
                    await response.aclose()
        except _Stale as error:
            raise Unanswered("what came had been sent before the request") from error
        except (_TooLong, *_NETWORK_ERRORS) as error:
            return _what_came(watch, received, error)
        finally:
            _WATCH.reset(watching)
        return RawAnswer(response.status, received, content)

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> httpcore2.Request:
        said = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        length = [] if body is None else [(b"Content-Length", b"%d" % len(body))]
        return httpcore2.Request(
            method,
            self._url_of(path),
            headers=[(b"Host", self._base_url.netloc), *said, *length],
            content=body,
            extensions={"timeout": self._timeouts},
        )

    def _make_url(self, path: str) -> httpcore2.URL:
        url = self._base_url.copy_with(raw_path=self._base_url.raw_path.rstrip(b"/") + path.encode("ascii"))
        return httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


async def _read(response: httpcore2.Response) -> bytes:
    parts = []
    async for part in response.aiter_stream():
        parts.append(part)
        if len(parts) > PARTS_MAX:
            raise _TooLong
    return b"".join(parts)


def _what_came(watch: _Watch, headers: Mapping[str, str], error: Exception) -> RawAnswer:
    """The answer without its body, where the status is enough; raise Unanswered where it is not."""
    is_too_long = isinstance(error, _TooLong) and watch.has_head_ended
    if watch.status is None or (watch.status < 300 and not is_too_long):
        raise Unanswered(_in_words(error)) from error
    return RawAnswer(watch.status, headers, None, is_too_long)


def _in_words(error: Exception) -> str:
    if isinstance(error, _TooLong):
        return "its head is too long"
    causes = list(_causes(error))
    found = (words for kinds, words in _IN_WORDS if any(isinstance(cause, kinds) for cause in causes))
    return next(found, "the network failed")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from, which says more of a connection that was never made."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class _Watch:
    """What has come of one answer, and how much of the rest is read at once."""

    def __init__(self, bytes_max: Callable[[int], int]) -> None:
        self.status: int | None = None
        self.has_head_ended = False
        self.bytes_at_once = READ_BYTES_MAX
        self._head = b""
        self._bytes_max = bytes_max
        self._bytes_left = 0

    def expect(self, status: int) -> None:
        """Raise _Stale for an answer that was not read since the request: it had come before it, to another one."""
        if status >= 200 and status != self.status:
            raise _Stale

    def note(self, data: bytes) -> None:
        """Look at what has just come; raise _TooLong beyond a bound."""
        if self.has_head_ended:
            self._bytes_left -= len(data)
        else:
            self._read_head(data)
        if self._bytes_left < 0:
            raise _TooLong

    def _read_head(self, data: bytes) -> None:
        self._head += data
        if (line := _STATUS_LINE.search(self._head)) is not None:
            self.status = int(line[1])
            if (end := _BLANK_LINE.search(self._head, line.end() - 1)) is not None:
                self.has_head_ended = True
                if b"transfer-encoding" not in self._head.lower():
                    self.bytes_at_once = READ_BYTES_MAX_UNPARSED
                self._bytes_left = self._bytes_max(self.status) - (len(self._head) - end.end())
                return
        if len(self._head) > HEAD_BYTES_MAX:
            raise _TooLong


# The pool hands a request to whichever connection is free, and that reads in the request's own task.
_WATCH: ContextVar[_Watch] = ContextVar("_WATCH")


class _WatchedNetwork(httpcore2.AsyncNetworkBackend):
    """Connections that show to the watch of their request what they read."""

    def __init__(self) -> None:
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # The library's signature.
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _WatchedStream(await self._network.connect_tcp(host, port, timeout, local_address, socket_options))


class _WatchedStream(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        # The pool asks each time whether a connection has been closed. For its socket alone, anyio looks up the
        # addresses of both ends, which takes as long as a write.
        self._socket = stream.get_extra_info("socket")

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # As above.
        watch = _WATCH.get()
        data = await self._stream.read(min(max_bytes, watch.bytes_at_once), timeout)
        watch.note(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # As above.
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # As above.
    ) -> httpcore2.AsyncNetworkStream:
        return _WatchedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self._socket is not None and hasattr(select, "poll"):
            return _is_readable(self._socket.fileno())
        return self._stream.get_extra_info(info)


def _is_readable(number: int) -> bool:
    """Whether there is something to read from a socket, its end included; true of one that is closed."""
    if number < 0:
        return True
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))
