"""What others wrote neither moves a terminal's cursor nor ends a command by a traceback; who acts always has a name."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import update

from app.models import OUTBOX
from hubspot_sync.cli.terminal import operator
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.operations import EventFilter
from tests.conftest import BACKEND
from tests.hubspot.conftest import HubSpot
from tests.hubspot.test_command_line import run

# A title, a cleared screen, a line of its own, text that runs backwards, a half of a character, and markup.
ATTACK = "\x1b]0;owned\x07\x1b[2J\r\n\tgate  open \u202e[red] [address]"
CONTROLS = set("\x1b\x07\r\u202e")


@pytest.fixture(autouse=True)
def _this_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)


@pytest.fixture
def attacked(hubspot: HubSpot) -> UUID:
    """A failed event of which every text is hostile, behind a hold for a hostile reason."""
    event_id = hubspot.track("nova_earned", {"user_id": "driver-1", "note": ATTACK})
    events = OUTBOX.events
    hostile = {"last_error": ATTACK, "failure_reason": ATTACK, "subject": ATTACK, "event_type": ATTACK}
    with hubspot.engine.begin() as connection:
        connection.execute(update(events).where(events.c.event_id == event_id).values(**hostile))
    operations.hold(hubspot.engine, OUTBOX, ATTACK, by=ATTACK)
    return event_id


def at_terminal(*arguments: str) -> str:
    """What a person sees of a command; the terminal's own line ends and colours are taken out."""
    here, there = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "COLUMNS": "300", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "app.cli", *arguments]
    with subprocess.Popen(command, cwd=BACKEND, env=environment, stdout=there, stderr=there, stdin=there):
        os.close(there)
        seen = b"".join(_read(here)).decode()
    os.close(here)
    return seen.replace("\r\n", "\n")


def _read(terminal: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(terminal, 4096):
            yield chunk
    except OSError:
        # Linux says so when the other side has closed.
        return


@pytest.mark.parametrize("command", ["status", "events", "reasons", "show", "audit", "release"])
def test_what_others_wrote_is_shown_and_neither_obeyed_nor_taken_for_markup(attacked: UUID, command: str) -> None:
    result = run(command, *([str(attacked)] if command == "show" else []))
    assert result.exit_code == 0
    assert not set(result.output) & CONTROLS
    assert "[red]" in result.output
    assert "[address]" in result.output


def test_a_persons_terminal_is_spared_too(attacked: UUID) -> None:
    for arguments in (["events"], ["reasons"], ["show", str(attacked)]):
        seen = at_terminal(*arguments)
        assert "[red]" in seen
        assert not set(seen) & CONTROLS


def test_row_in_a_pipe_is_one_line_with_all_its_fields(attacked: UUID) -> None:
    headings, line = run("events").stdout.splitlines()
    assert len(line.split("\t")) == len(headings.split("\t")) == 8


def test_payload_that_no_encoding_holds_or_that_is_no_json_is_shown_all_the_same(hubspot: HubSpot) -> None:
    half = hubspot.track("nova_earned", {"user_id": "driver-1", "note": "half \ud800 of it"})
    older = hubspot.track("nova_earned", {"user_id": "driver-2"})
    events = OUTBOX.events
    with hubspot.engine.begin() as connection:
        connection.execute(update(events).where(events.c.event_id == older).values(payload="no JSON"))
    for event_id, text in ((half, r"\ud800"), (older, "no JSON")):
        for options in ([], ["--json"], ["--reveal"]):
            result = run("show", str(event_id), *options)
            assert (result.exit_code, result.exception) == (0, None)
            assert text in result.stdout
        json.loads(run("show", str(event_id), "--json").stdout)


def test_operator_without_a_name_is_called_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    assert operator() == "cli:4000000000"
    monkeypatch.setenv("USER", "ada")
    assert operator() == "cli:ada"


@pytest.mark.parametrize("verb", [["retry", "--yes"], ["discard", "--why", "a test", "--yes"]], ids=lambda it: it[0])
@pytest.mark.parametrize("also", [["--all"], ["--type", "nova_earned"]], ids=" ".join)
def test_ids_and_a_filter_together_make_no_sense(hubspot: HubSpot, verb: list[str], also: list[str]) -> None:
    event_id = hubspot.track("nova_earned", {"user_id": "driver-1"})
    assert run(*verb, str(event_id), *also).exit_code == 2
    assert hubspot.row(event_id).failed_at is not None


@pytest.mark.parametrize("arguments", [["hold", " "], ["discard", "--all", "--why", "", "--yes"]], ids=" ".join)
def test_hold_and_discard_want_a_reason(hubspot: HubSpot, arguments: list[str]) -> None:
    hubspot.track("nova_earned", {"user_id": "driver-1"})
    assert run(*arguments).exit_code == 2
    assert operations.read_audit(hubspot.engine, OUTBOX) == []
    assert len(operations.find_events(hubspot.engine, OUTBOX, EventFilter())) == 1
