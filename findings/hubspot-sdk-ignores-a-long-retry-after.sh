#!/usr/bin/env bash
# A Retry-After of more than a minute is not kept: the request is repeated within a second, as if the header were missing.
#
# hubspot-sdk 0.1.0a9. Guess: the client waits as long as it is told, or gives up and raises where that is too long.
# Seen: with 60 it sleeps 60 seconds; with 61 about half a second, then about one, and then RateLimitError is raised.
# (The sleep is recorded here instead of slept.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "hubspot-sdk==0.1.0a9"
"$folder/venv/bin/python" - <<'PY'
import time

import httpx
from hubspot_sdk import HubSpot, RateLimitError

slept = []
time.sleep = slept.append


def sleeps(retry_after):
    slept.clear()
    answer = httpx.Response(429, headers={"Retry-After": retry_after}, json={"status": "error"})
    http_client = httpx.Client(transport=httpx.MockTransport(lambda _request: answer))
    with HubSpot(access_token="token", base_url="http://hubspot.example", http_client=http_client) as client:
        try:
            client.crm.objects.contacts.get("1")
        except RateLimitError:
            pass
    return list(slept)


a_minute, longer = sleeps("60"), sleeps("61")
print("Retry-After: 60, slept", a_minute)
print("Retry-After: 61, slept", [round(seconds, 2) for seconds in longer])
if a_minute != [60.0, 60.0] or len(longer) != 2 or max(longer) > 2:
    raise SystemExit("the behaviour has changed")
PY
