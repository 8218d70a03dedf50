"""The log keeps messages whole and fields beside them, and neither tokens nor addresses get into it."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from app.otp import log_code
from hubspot_sync.log_lines import formatter
from tests.app.conftest import on_sqlite_only


def test_away_from_a_terminal_a_line_is_json_with_the_message_whole():
    line = json.loads(formatter(is_terminal=False).format(_record("HubSpot sync worker started", gate="open")))
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "message": "HubSpot sync worker started",
        "level": "info",
        "logger": "nerava",
        "gate": "open",
    }


def test_in_a_terminal_a_line_reads_as_its_message():
    assert "HubSpot sync worker started" in formatter(is_terminal=True).format(_record("HubSpot sync worker started"))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_addresses_and_tokens_are_taken_out_of_messages_fields_and_tracebacks(is_terminal):
    try:
        raise ValueError("ada@example.com with pat-na1-0123-4567")
    except ValueError:
        record = _record("no contact for +49 170 1234567", last_error="grace@example.com")
        record.exc_info = sys.exc_info()
    line = formatter(is_terminal=is_terminal).format(record)
    assert "ValueError" in line
    for secret in ("ada@", "grace@", "1234567", "pat-na1"):
        assert secret not in line


@on_sqlite_only
def test_an_evening_leaves_no_address_and_no_token_in_the_log(hub, caplog):
    caplog.set_level(logging.DEBUG)
    driver = hub.sign_up(email="driver@example.com")
    other = hub.sign_up(phone="+491701234567")
    hub.install_pass(driver)
    hub.grant(driver)
    hub.redeem(driver, 10)
    hub.redeem(other, 10)
    hub.http.post("/v1/auth/otp/start", json={"email": "driver@example"})
    token = driver.headers["Authorization"].removeprefix("Bearer ")
    for secret in ("driver@example", "+491701234567", token, *(it.code for it in hub.codes)):
        assert secret not in caplog.text


@on_sqlite_only
def test_the_developers_sender_writes_the_code_with_its_challenge(hub, caplog):
    challenge = hub.start(email="driver@example.com")
    log_code(challenge)
    [record] = [it for it in caplog.records if "One-time code for" in it.getMessage()]
    assert challenge.code in record.getMessage()
    assert vars(record)["challenge_id"] == str(challenge.challenge_id)


def _record(message, **fields):
    record = logging.LogRecord("nerava", logging.INFO, __file__, 1, message, (), None)
    vars(record).update(fields)
    return record
