#!/usr/bin/env bash
# An answer of 200 whose body is not JSON, such as a gateway's page, is returned as a contact all of whose fields are None.
#
# hubspot-api-client 12.0.0. Guess: an error says that the answer is no contact.
# Seen: nothing is raised, for reading a contact and for a batch of them, whose `results` are None.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "hubspot-api-client==12.0.0"
"$folder/venv/bin/python" - <<'PY'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hubspot import HubSpot
from hubspot.crm.contacts import BatchInputSimplePublicObjectBatchInputUpsert


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<html><body>Back in a minute</body></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_arguments):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
client = HubSpot(access_token="token", host=f"http://127.0.0.1:{server.server_port}")
contact = client.crm.contacts.basic_api.get_by_id("1")
batch = client.crm.contacts.batch_api.upsert(BatchInputSimplePublicObjectBatchInputUpsert(inputs=[]))
print(type(contact).__name__, "id:", contact.id, "properties:", contact.properties)
print(type(batch).__name__, "status:", batch.status, "results:", batch.results)
if (contact.id, contact.properties, batch.status, batch.results) != (None, None, None, None):
    raise SystemExit("the behaviour has changed")
PY
