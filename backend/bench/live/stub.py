"""`python -m bench.live.stub`: a HubSpot that answers at once, and does nothing else. It prints its URL.

It writes contacts nowhere: every input is confirmed, with the properties that it sets. Only an address that begins with
LEAD belongs to a contact without our id, which is found by that address alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from bench.live.drivers import LEAD

PORTAL_ID = "12345678"
_HEADERS = (
    b"content-type: application/json;charset=utf-8\r\n"
    b"x-hubspot-correlation-id: 0194a6f0-7a3b-7d5e-8b1c-2f6a9d4e5c71\r\n"
    b"x-hubspot-ratelimit-max: 1000000\r\n"
    b"x-hubspot-ratelimit-remaining: 900000\r\n"
    b"x-hubspot-ratelimit-interval-milliseconds: 10000\r\n"
    b"x-hubspot-ratelimit-daily: 1000000000\r\n"
    b"x-hubspot-ratelimit-daily-remaining: 900000000\r\n"
)
_AT = "2026-11-24T18:00:00.000Z"
_REASON = {200: b"OK", 207: b"Multi-Status"}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b"0"
            )
            body = await reader.readexactly(int(length))
            status, answer = _answer(head, body)
            content = json.dumps(answer, separators=(",", ":")).encode()
            start = b"HTTP/1.1 %d %s\r\ncontent-length: %d\r\n" % (status, _REASON[status], len(content))
            writer.write(start + _HEADERS + b"\r\n" + content)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _answer(head: bytes, body: bytes) -> tuple[int, dict[str, Any]]:
    path = head.split(b" ", 2)[1]
    if path.endswith(b"/details"):
        return 200, {"portalId": int(PORTAL_ID), "timeZone": "Europe/Berlin"}
    asked = json.loads(body)
    if path.endswith(b"/read"):
        found = [_contact({"email": one["id"]}, one["id"]) for one in asked["inputs"]]
        return 200, {"status": "COMPLETE", "results": found, "startedAt": _AT, "completedAt": _AT}
    taken = [one for one in asked["inputs"] if one["idProperty"] != "email" and _is_lead(one)]
    done = [one for one in asked["inputs"] if one["idProperty"] == "email" or not _is_lead(one)]
    results = [
        {**_contact(one["properties"], one["id"]), "objectWriteTraceId": one["objectWriteTraceId"]} for one in done
    ]
    answer = {"status": "COMPLETE", "results": results, "startedAt": _AT, "completedAt": _AT}
    if not taken:
        return 200, answer
    return 207, answer | {"numErrors": len(taken), "errors": [_conflict(one) for one in taken]}


def _is_lead(one: dict[str, Any]) -> bool:
    return bool(one["properties"].get("email", "").startswith(LEAD))


def _contact(properties: dict[str, str], name: str) -> dict[str, Any]:
    record_id = str(10_000_000_000 + hash(name) % 1_000_000_000)
    shown = {**properties, "createdate": _AT, "hs_object_id": record_id, "lastmodifieddate": _AT}
    return {"id": record_id, "properties": shown, "createdAt": _AT, "updatedAt": _AT, "archived": False, "new": False}


def _conflict(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "status": "error",
        "category": "CONFLICT",
        "message": "Contact already exists. Existing ID: 10000000001",
        "context": {"existingId": ["10000000001"], "objectWriteTraceId": [one["objectWriteTraceId"]]},
    }


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, limit=2**22)
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
