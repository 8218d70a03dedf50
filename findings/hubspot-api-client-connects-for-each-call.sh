#!/usr/bin/env bash
# Each call that is written as `client.crm.contacts.basic_api.get_by_id(...)` opens a connection of its own, though the
# client is the same and the server keeps connections open.
#
# hubspot-api-client 12.0.0. Guess: the client has one pool, so that five calls in a row use one connection.
# Seen: five connections; one if `basic_api` is kept in a variable. The attribute makes a new API client, with a new pool,
# each time that it is read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "hubspot-api-client==12.0.0"
"$folder/venv/bin/python" - <<'PY'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hubspot import HubSpot

connections = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        connections.append(self.client_address)

    def do_GET(self):
        body = b'{"id": "1", "properties": {}}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
client = HubSpot(access_token="token", host=f"http://127.0.0.1:{server.server_port}")
for _ in range(5):
    client.crm.contacts.basic_api.get_by_id("1")
in_a_chain = len(connections)
kept = client.crm.contacts.basic_api
for _ in range(5):
    kept.get_by_id("1")
kept_in_a_variable = len(connections) - in_a_chain
print("connections for five calls:", in_a_chain, "in a chain,", kept_in_a_variable, "with basic_api kept")
if (in_a_chain, kept_in_a_variable) != (5, 1):
    raise SystemExit("the behaviour has changed")
PY
