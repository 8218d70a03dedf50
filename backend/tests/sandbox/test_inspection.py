"""Looking inside: the control routes, the page, the command, and what a seed repeats."""

import os
import re
import signal
import socket
import subprocess
import sys
from types import NoneType
from typing import get_args, get_type_hints

import httpx2
import pytest

from hubspot_sandbox import Sandbox
from tests.sandbox.conftest import READ, HubSpotClient, by_email


def test_strict_type_checker_lets_a_test_read_a_contacts_properties() -> None:
    seen = get_type_hints(Sandbox.contact)["return"]
    [contact] = (it for it in get_args(seen) if it is not NoneType)
    assert get_type_hints(contact)["properties"] == dict[str, str | None]


def test_contacts_are_listed_in_pages(hubspot: HubSpotClient) -> None:
    hubspot.upsert(*(by_email(f"d{i}@example.com", city="Kiel") for i in range(5)))
    first = hubspot.http.get("/sandbox/contacts", params={"limit": 3, "property": ["email", "phone"]}).json()
    assert first["total"] == 5
    assert first["results"][0]["properties"] == {"email": "d0@example.com", "phone": None}
    rest = hubspot.http.get("/sandbox/contacts", params={"limit": 3, "after": first["next_after"]}).json()
    assert [contact["properties"]["email"] for contact in rest["results"]] == ["d3@example.com", "d4@example.com"]
    assert "next_after" not in rest


def test_requests_and_stats_tell_what_was_asked(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    hubspot.upsert(by_email("a@example.com", "1"), by_email("b@example.com", "2"))
    refused = hubspot.http.post(READ, json={"inputs": []})
    upserted, read = hubspot.http.get("/sandbox/requests").json()["results"]
    assert (upserted["method"], upserted["status"], upserted["inputs"]) == ("POST", 200, 2)
    assert (read["path"], read["status"]) == (READ, 400)
    assert read["correlation_id"] == refused.headers["x-hubspot-correlation-id"] == refused.json()["correlationId"]
    stats = hubspot.http.get("/sandbox/stats").json()
    assert stats == {"requests": 2, "inputs": 2, "by_status": {"200": 1, "400": 1}, "contacts": 2}
    assert len(sandbox.requests()) == 2


def test_contacts_can_be_deleted_and_the_account_reset(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    hubspot.create_key_property()
    hubspot.upsert(by_email("ada@example.com", member_id="m1"))
    hubspot.http.delete("/sandbox/contacts")
    assert sandbox.contact(member_id="m1") is None
    assert hubspot.upsert(by_email("ada@example.com", member_id="m1")).status_code == 200
    hubspot.http.post("/sandbox/reset")
    assert sandbox.contacts() == []
    assert hubspot.upsert(by_email("ada@example.com", member_id="m1")).status_code == 400


def test_the_page_shows_contacts_requests_and_faults_and_escapes_all(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    hubspot.upsert(by_email("ada@example.com", firstname="<script>alert(1)</script>"))
    hubspot.http.get("/crm/<b>")
    sandbox.faults.add("locked", requests=3, path="<i>")
    page = hubspot.http.get("/").text
    assert "ada@example.com" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>" not in page
    assert "<b>/crm" not in page
    assert "<i>" not in page
    assert "3 more requests" in page
    assert hubspot.http.get("/page.css").headers["content-type"].startswith("text/css")
    assert len(sandbox.requests()) == 2


def test_faults_are_switched_on_the_page(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    assert hubspot.http.post("/page/faults", data={"kind": "bad_gateway"}).status_code == 303
    [active] = sandbox.faults.active()
    assert active["kind"] == "bad_gateway"
    assert hubspot.http.post(f"/page/faults/{active['id']}/off").status_code == 303
    assert sandbox.faults.active() == []
    assert hubspot.http.post("/page/faults", data={"kind": "earthquake"}).status_code == 400
    hubspot.http.post("/page/faults", data={"kind": "slow"})
    hubspot.http.post("/page/faults/off")
    assert sandbox.faults.active() == []


def test_a_seed_repeats_the_order_of_results_and_the_correlation_ids(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    def run() -> tuple[str, list[str]]:
        sandbox.reset()
        answer = hubspot.upsert(*(by_email(f"d{i}@example.com", str(i)) for i in range(20)))
        order = [row["objectWriteTraceId"] for row in answer.json()["results"]]
        return answer.headers["x-hubspot-correlation-id"], order

    assert run() == run()


def test_many_stored_contacts_do_not_slow_an_upsert(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    def store(count: int) -> None:
        sandbox.run(lambda a: [a.contacts.create({"email": f"old{i}@example.com"}, 0.0) for i in range(count)] and None)

    store(20_000)
    hubspot.upsert(*(by_email(f"d{i}@example.com", str(i), city="Kiel") for i in range(100)))
    duration_ms = sandbox.requests()[-1]["duration_ms"]
    assert isinstance(duration_ms, float)
    assert duration_ms < 250  # About 4 ms on a laptop; a scan of the contacts for each input takes seconds.


def test_a_taken_port_is_said_so(sandbox: Sandbox) -> None:
    port = httpx2.URL(sandbox.url).port or 0
    with pytest.raises(OSError, match=f"could not listen on 127.0.0.1:{port}"):
        Sandbox(port=port).start()


def test_the_command_serves_until_it_is_interrupted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hubspot_sandbox", "--port", str(port), "--portal-id", "5", "--token", "t"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"HubSpot sandbox on http://127.0.0.1:{port}\n"
        transport = httpx2.HTTPTransport(retries=8)  # Until it listens.
        with httpx2.Client(transport=transport, headers={"Authorization": "Bearer t"}) as http:
            answer = http.get(f"http://127.0.0.1:{port}/account-info/v3/details")
        process.send_signal(signal.SIGINT)
        log = process.stdout.read()
    assert process.returncode == 0
    assert answer.json()["portalId"] == 5
    assert re.search(r"GET /account-info/v3/details 200", log)
