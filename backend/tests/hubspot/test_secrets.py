"""The token and what names a person stay where they belong, whoever tries to get them out."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from hubspot_sync.client import HubSpotClient
from hubspot_sync.errors import NoAnswer
from hubspot_sync.log_lines import formatter
from hubspot_sync.redaction import Redaction, redact
from hubspot_sync.settings import HubSpotSettings
from sqlalchemy_outbox.model import GateState
from tests.conftest import missing_tool
from tests.hubspot.conftest import HubSpot, settings_for

TOKEN = "pat-na1-very-secret-0123"
EMAIL, PHONE = "ada.lovelace@example.com", "030 123456"


@pytest.fixture
def hubspot(hubspot: HubSpot) -> HubSpot:
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_private_app_token=TOKEN)
    return hubspot


@pytest.mark.parametrize("status", [200, 207, 307, 400, 401, 403, 404, 409, 429, 488, 500])
def test_answer_that_echoes_everything_leaks_nothing(
    hubspot: HubSpot, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"Bearer {TOKEN} of {EMAIL}, {EMAIL.upper()}, {PHONE} and +49 30 123456"
    body = {
        "status": "COMPLETE",
        "category": "VALIDATION_ERROR",
        "message": echo,
        "correlationId": echo,
        "errors": [{"message": echo, "code": "INVALID_EMAIL", "context": {"propertyName": [echo], "id": [EMAIL]}}],
    }
    headers = {"location": f"https://{TOKEN}@elsewhere.example/?email={EMAIL}", "x-hubspot-correlation-id": echo}
    event_id = hubspot.sign_up("driver-1", email=EMAIL, phone=PHONE)
    answer = {"status": status, "body": json.dumps(body), "content_type": "application/json", "headers": headers}
    hubspot.sandbox.faults.add("custom", path="/batch/upsert", **answer)
    for _ in range(4):
        hubspot.deliver()
    held_by = f"{hubspot.row(event_id).last_error} {hubspot.gate().reason}"
    assert held_by != "None None"
    ours = [it.getMessage() for it in caplog.records if it.name.startswith(("hubspot_sync", "sqlalchemy_outbox"))]
    kept = str(hubspot.deliveries())
    assert str(status) in kept
    for text in (held_by, kept, *ours):
        for secret in (TOKEN, EMAIL, EMAIL.upper(), PHONE, "+49 30 123456"):
            assert secret not in text


def test_redaction_leaves_record_ids_and_words() -> None:
    text = "Contact already exists. Existing ID: 80000000001 (propertyName=email, value=ada@example.com} on 5"
    assert redact(text) == text.replace("value=ada@example.com", "[address]")
    assert redact("call +49 (30) 123-456 now") == "call [phone] now"
    assert Redaction(["0301234"])("0301234") == "[personal]"


def test_redaction_of_a_long_text_takes_no_longer_than_its_length() -> None:
    assert redact("a" * 1_000_000) == "a" * 1_000_000
    assert redact("a@" * 200_000) != ""


SERVICE_KEY = "CiRuYTEtOWY4Mi0wYjE3LTQ1ZDEtYTZjMy1mZTAxMjM0NTY3ODk"


@pytest.mark.parametrize("token", [TOKEN, SERVICE_KEY])
@pytest.mark.parametrize("quoted", ["{0}", "{0}...", "{0}…", "'{0}'", "token={0}&x", "{0}*****", "x{0}", "{0}, {0}"])
def test_piece_of_the_token_that_hubspot_quotes_is_taken_out(token: str, quoted: str) -> None:
    redaction = Redaction(token=token)
    for piece in (token[:8], token[:12], token[:20], token[-8:], token[10:20], token[1:], token[:-1]):
        text = f"The key {quoted.format(piece)} has expired, see 80000000001."
        redacted = redaction(text)
        assert piece not in redacted
        assert "[token]" in redacted
        assert redacted.startswith("The key ")
        assert redacted.endswith("has expired, see 80000000001.")


def test_beginning_of_the_token_in_a_refusal_reaches_no_log(hubspot: HubSpot, caplog: pytest.LogCaptureFixture) -> None:
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_private_app_token=SERVICE_KEY)
    body = {"status": "error", "message": f"The key {SERVICE_KEY[:16]}... is revoked", "category": "INVALID_AUTH"}
    hubspot.sandbox.faults.add("custom", status=401, body=json.dumps(body), content_type="application/json")
    hubspot.sign_up("driver-1")
    hubspot.deliver()
    ours = [it.getMessage() for it in caplog.records if it.name.startswith(("hubspot_sync", "sqlalchemy_outbox"))]
    assert "[token]" in str(hubspot.gate().reason)
    assert SERVICE_KEY[:6] not in f"{hubspot.gate().reason} {hubspot.deliveries()} {ours}"


def test_no_repr_and_no_traceback_shows_the_token() -> None:
    settings = HubSpotSettings(hubspot_private_app_token=SecretStr(TOKEN))
    client = HubSpotClient("http://127.0.0.1:9", settings.hubspot_private_app_token, "v3", connections=1)
    assert TOKEN not in repr(settings) + str(vars(client)) + settings.model_dump_json()
    token = TOKEN  # A local variable of the frame that fails.
    try:
        raise RuntimeError("it failed")
    except RuntimeError as error:
        record = logging.LogRecord(
            "nerava", logging.ERROR, __file__, 1, "oh", (), (type(error), error, error.__traceback__)
        )
    assert token not in formatter(is_terminal=True).format(record)


@pytest.mark.parametrize("token", ["pat-na1-0\nX-Evil: 1", "pat-na1-…", "pat na1"])
def test_token_that_fits_no_header_is_refused_at_start_and_not_quoted(token: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        HubSpotSettings(hubspot_private_app_token=SecretStr(token))
    assert token not in str(refusal.value)
    assert HubSpotSettings(hubspot_private_app_token=SecretStr(f" {TOKEN}\n")).hubspot_private_app_token == SecretStr(
        TOKEN
    )


class _Elsewhere(BaseHTTPRequestHandler):
    """Says that it was asked, and by whose authority."""

    asked: list[str | None]

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("authorization"))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815  # The name is the base's.

    def log_message(self, format: str, *args: object) -> None:
        """Not to the tests' output."""


@pytest.fixture
def elsewhere() -> Iterator[tuple[ThreadingHTTPServer, list[str | None]]]:
    asked: list[str | None] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Elsewhere,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server, asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_redirect_is_not_followed_with_the_token(
    hubspot: HubSpot, elsewhere: tuple[ThreadingHTTPServer, list[str | None]]
) -> None:
    server, asked = elsewhere
    hubspot.sign_up("driver-1", email=EMAIL)
    hubspot.sandbox.faults.add("redirect", location=f"http://127.0.0.1:{server.server_port}/", status=308)
    hubspot.deliver()
    assert hubspot.gate().state is GateState.HELD
    assert asked == []


def test_certificate_that_nobody_vouches_for_ends_the_request_before_the_token_is_sent(
    tmp_path: Path, elsewhere: tuple[ThreadingHTTPServer, list[str | None]]
) -> None:
    server, asked = elsewhere
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        missing_tool("no openssl on this machine")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_port}"

    async def ask() -> None:
        async with HubSpotClient(url, SecretStr(TOKEN), "2026-09", connections=1) as client:
            await client.account_details()

    with pytest.raises(NoAnswer, match="nobody vouches for the certificate"):
        asyncio.run(ask())
    assert asked == []
