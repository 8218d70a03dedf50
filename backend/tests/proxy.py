"""A TCP proxy that misbehaves on request: connections through it go silent without closing, or are reset."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import make_url

_BUFFER_BYTES = 65536
# Closing a socket that lingers for no time sends RST instead of FIN.
_NO_LINGER = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections on a loopback port of its own to a port of `host`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def silence(self, carrying: bytes = b"") -> int:
        """Let nothing more through on the open connections that lately carried these bytes; their number."""
        found = self._find(carrying)
        for it in found:
            it.is_silent = True
        return len(found)

    def deafen(self, carrying: bytes = b"") -> int:
        """Let through what their clients send, and none of the answers; their number."""
        found = self._find(carrying)
        for it in found:
            it.is_deaf = True
        return len(found)

    def reset(self, carrying: bytes = b"") -> int:
        """End the open connections that lately carried these bytes by RST; their number."""
        found = self._find(carrying)
        for it in found:
            it.reset()
        return len(found)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for it in self._connections:
                it.reset()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            connection = _Connection(client, server)
            with self._lock:
                self._connections.append(connection)
            connection.start()

    def _find(self, carrying: bytes) -> list[_Connection]:
        with self._lock:
            return [it for it in self._connections if it.is_open and carrying in it.sent]


class _Connection:
    """One client's connection and ours to the server. A silent or deaf one stays so, and open, until it is reset."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._sockets = (client, server)
        self.sent = b""
        self.is_silent = False
        self.is_deaf = False
        self.is_open = True

    def start(self) -> None:
        client, server = self._sockets
        threading.Thread(target=self._forward, args=(client, server, True), name="proxy", daemon=True).start()
        threading.Thread(target=self._forward, args=(server, client, False), name="proxy", daemon=True).start()

    def reset(self) -> None:
        self.is_open = False
        for it in self._sockets:
            with suppress(OSError):
                it.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                # Wakes the thread that reads from it, which closing alone would leave asleep and the socket open.
                it.shutdown(socket.SHUT_RD)
            it.close()

    def _forward(self, source: socket.socket, target: socket.socket, is_of_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_BUFFER_BYTES):
                if is_of_client:
                    self.sent = (self.sent + data)[-_BUFFER_BYTES:]
                if not self._is_withheld(is_of_client):
                    target.sendall(data)
        if not self._is_withheld(is_of_client):
            self.is_open = False
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)

    def _is_withheld(self, is_of_client: bool) -> bool:
        return self.is_silent or (self.is_deaf and not is_of_client)


@contextmanager
def proxied(url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy before the database of `url`, and the URL that goes through it."""
    target = make_url(url)
    assert target.host is not None
    assert target.port is not None
    proxy = Proxy(target.host, target.port)
    try:
        yield proxy, target.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    finally:
        proxy.close()
