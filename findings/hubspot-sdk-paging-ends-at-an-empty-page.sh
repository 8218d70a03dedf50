#!/usr/bin/env bash
# Iterating over a list of contacts ends at the first page that has no results, even if that page names the next one.
#
# hubspot-sdk 0.1.0a9. Guess: pages are fetched for as long as one has `paging.next.after`, as HubSpot documents paging.
# Seen: of three pages, the second of them empty, two are fetched and one contact is returned, without an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "hubspot-sdk==0.1.0a9"
"$folder/venv/bin/python" - <<'PY'
import httpx
from hubspot_sdk import HubSpot


def contact(number):
    instant = "2026-01-02T03:04:05.678Z"
    return {"id": number, "properties": {}, "createdAt": instant, "updatedAt": instant, "archived": False}


pages = {
    None: {"results": [contact("1")], "paging": {"next": {"after": "2"}}},
    "2": {"results": [], "paging": {"next": {"after": "3"}}},
    "3": {"results": [contact("3")]},
}
fetched = []


def answer(request):
    after = request.url.params.get("after")
    fetched.append(after)
    return httpx.Response(200, json=pages[after])


http_client = httpx.Client(transport=httpx.MockTransport(answer))
with HubSpot(access_token="token", base_url="http://hubspot.example", http_client=http_client) as client:
    contacts = [contact.id for contact in client.crm.objects.contacts.list(limit=1)]
print("pages fetched:", fetched, "contacts:", contacts)
if (fetched, contacts) != ([None, "2"], ["1"]):
    raise SystemExit("the behaviour has changed")
PY
