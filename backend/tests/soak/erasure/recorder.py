"""What stands between workers and HubSpot, and keeps every request with its moment."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# A worker gives a request up sooner.
_TIMEOUT_SECONDS = 30
_HEADERS_OF_A_HOP = {"connection", "transfer-encoding", "content-length", "host"}


@dataclass(slots=True)
class Recorder:
    """`requests` came at these moments, by the machine's clock, with these paths and bodies."""

    url: str
    requests: list[tuple[float, str, bytes]] = field(default_factory=list)


@contextmanager
def recording(target: str) -> Iterator[Recorder]:
    place = urlsplit(target)
    recorder = Recorder("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            recorder.requests.append((time.time(), self.path, body))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HEADERS_OF_A_HOP}
            onward = http.client.HTTPConnection(place.hostname or "", place.port, timeout=_TIMEOUT_SECONDS)
            try:
                onward.request(self.command, self.path, body or None, headers)
                answer = onward.getresponse()
                content = answer.read()
            except OSError:
                # As HubSpot's own reset would be.
                self.close_connection = True
                return
            finally:
                onward.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HEADERS_OF_A_HOP:
                    self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        recorder.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join()
