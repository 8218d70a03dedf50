"""The sandbox's own routes obey this machine's people and scripts, and no web page."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx2
import pytest

from hubspot_sandbox import Sandbox
from hubspot_sandbox.account import Account, AccountSettings
from hubspot_sandbox.application import create_application
from hubspot_sandbox.control import Control
from hubspot_sandbox.gateway import Gateway
from hubspot_sandbox.page import Page

STRANGERS = [
    {"Host": "evil.example"},
    {"Host": "evil.example:8025"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "evil.example", "Origin": "http://evil.example"},
    {"Host": ""},
    {"Host": "[evil"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://[evil"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]
ROUTES = [
    (method, route.path.replace("{id:int}", "1"))
    for room in (Control, Page)
    for route in room(Account(AccountSettings())).routes()
    for method in sorted((route.methods or set()) - {"HEAD"})
]


def ask(sandbox: Sandbox, method: str, path: str, headers: Mapping[str, str]) -> int:
    return httpx2.request(method, f"{sandbox.url}{path}", headers=dict(headers), content=b"{}").status_code


@pytest.mark.parametrize("stranger", STRANGERS, ids=repr)
def test_route_of_the_sandbox_obeys_no_web_page(sandbox: Sandbox, stranger: dict[str, str]) -> None:
    assert len(ROUTES) > 15
    for method, path in ROUTES:
        assert ask(sandbox, method, path, stranger) in (400, 403), (method, path)
    assert sandbox.faults.active() == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "sandbox", "hubspot.localhost", "192.168.1.7"])
def test_names_of_this_machine_and_of_a_private_network_are_obeyed(sandbox: Sandbox, name: str) -> None:
    host = f"{name}:{urlsplit(sandbox.url).port}"
    for more in ({}, {"Origin": f"http://{host}"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert ask(sandbox, "GET", "/sandbox/stats", {"Host": host, **more}) == 200


def test_api_is_asked_by_any_name(sandbox: Sandbox) -> None:
    headers = {"Host": "api.hubapi.test", "Authorization": "Bearer any"}
    assert ask(sandbox, "GET", "/account-info/2026-09/details", headers) == 200


def test_name_that_it_was_told_to_listen_on_is_obeyed() -> None:
    account = Account(AccountSettings())
    transport = httpx2.ASGITransport(app=create_application(account, Gateway(account), "hubspot.example.com"))

    async def ask_it(host: str) -> int:
        async with httpx2.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return (await client.get("/sandbox/stats")).status_code

    assert asyncio.run(ask_it("hubspot.example.com:8025")) == 200
    assert asyncio.run(ask_it("other.example.com:8025")) == 403
