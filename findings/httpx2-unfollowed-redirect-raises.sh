#!/usr/bin/env bash
# A client that is told not to follow redirects still reads the Location, and raises where it cannot parse it: the
# status, 302, is lost to the caller.
#
# httpx2 2.16. Guess: with follow_redirects=False the answer is returned whatever its Location is.
# Seen: RemoteProtocolError "Invalid URL in location header" in place of the answer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "httpx2==2.16.0"
"$folder/venv/bin/python" - <<'PY'
import httpx2


def redirect(_request):
    return httpx2.Response(302, headers={"location": "https://elsewhere.example:port/"})


with httpx2.Client(transport=httpx2.MockTransport(redirect), follow_redirects=False) as client:
    try:
        answer = client.get("https://api.example/")
    except httpx2.RemoteProtocolError as error:
        print("raised:", type(error).__name__, str(error)[:60])
    else:
        raise SystemExit(f"the behaviour has changed: {answer.status_code} was returned")
PY
