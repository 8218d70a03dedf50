"""Every verb under every value of every option it declares: an exit code, one line, and no traceback.

In this process, where hundreds of commands take seconds: Typer's runner enters by the same `main` as a process does.
What only a process has, its terminal's encoding and its arguments' bytes, is tried on real ones at the end.
`make test` tries a third of the values at each place, by turns; the soak tries all.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer
from sqlalchemy import Engine
from typer.testing import Result

from app.cli import cli
from app.settings import Settings
from hubspot_sandbox import Sandbox
from tests.conftest import BACKEND, url_of_kind
from tests.hubspot.conftest import HubSpot, settings_for
from tests.hubspot.test_command_line import run

VALUES = [
    "",
    " ",
    "0",
    "-1",
    "1_000",
    "\u0661",
    str(2**63 - 1),
    str(2**63),
    str(10**30),
    "0s",
    "1s",
    "1000000d",
    "\uff11s",
    "failed",
    str(uuid4()),
    "\ud800",
    "a\0b",
    "Żółć 充電",
    "\x1b[31m[red]\n%s{}",
    "x" * 5000,
]
VERBS: dict[str, Any] = dict(typer.main.get_command(cli).commands)  # type: ignore[attr-defined]
# What a verb is given besides, so that it comes to the value which is tried.
GIVEN = {"reason": ["why"], "why": ["--why", "why"], "event": [str(UUID(int=1))], "subject": ["driver-1"]}


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    return url_of_kind(request, sqlite="migrated_sqlite_url", postgresql="migrated_postgres_url")


@pytest.fixture
def hubspot(engine: Engine, sandbox: Sandbox) -> HubSpot:
    return HubSpot(engine, sandbox, settings_for(sandbox))


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """As by Ctrl-C: what looks again and again would never end."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def written(parameter: Any, value: str) -> list[str]:
    """The parameter with this value, on a command line."""
    return [f"{parameter.opts[0]}={value}"] if is_option(parameter) else [value]


def some_of(values: Sequence[str], turn: int) -> Sequence[str]:
    """All with EVERY_VALUE set; else each third, beginning elsewhere each turn."""
    return values if "EVERY_VALUE" in os.environ else values[turn % 3 :: 3]


def is_option(parameter: Any) -> bool:
    return str(parameter.opts[0]).startswith("-")


def tries_of(verb: str, turn: int) -> Iterator[list[str]]:
    parameters = VERBS[verb].params
    flags = [it for it in parameters if getattr(it, "is_flag", False)]
    required = {it.name: GIVEN[it.name] for it in parameters if it.required}
    yield []
    for flag in flags:
        yield [*_all_but("", required), flag.opts[0]]
    for place, parameter in enumerate(parameters):
        if parameter in flags:
            continue
        others = _all_but(parameter.name, required)
        for value in some_of(VALUES, turn + place):
            yield [*others, *written(parameter, value), *(["--yes"] if "--yes" in (it.opts[0] for it in flags) else [])]


def _all_but(name: str, required: dict[str, list[str]]) -> list[str]:
    # Options before arguments: what looks like an option behind them is one.
    return [word for other, words in sorted(required.items()) if other != name for word in words]


def objection_to(result: Result) -> str | None:
    """What is wrong with how a command ended."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"traceback: {result.exception!r}"
    if result.exit_code not in (0, 1, 2):
        return f"exit code {result.exit_code}"
    lines = [it for it in result.stderr.splitlines() if not it.startswith('{"')]
    if "Traceback" in result.output or len(lines) > 1:
        return f"not one line: {lines}"
    return "no word" if result.exit_code and not result.output.strip() else None


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_takes_or_refuses_every_value_in_one_line(hubspot: HubSpot, verb: str) -> None:
    hubspot.track("no_such_event", {"user_id": "driver-1"})
    objections = {}
    for arguments in tries_of(verb, turn=hubspot.engine.dialect.name == "sqlite"):
        with interrupted_after(1 if "--watch" in arguments else 30):
            if (objection := objection_to(run(verb, *arguments))) is not None:
                objections[" ".join(arguments)[:100]] = objection
    assert objections == {}


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("verb", ["retry", "discard"])
def test_zero_seconds_are_a_time_too(hubspot: HubSpot, verb: str) -> None:
    hubspot.track("driver_signed_up", {"user_id": "driver-1"})
    why = ["--why", "a test"] if verb == "discard" else []
    result = run(verb, "--older-than", "0s", *why, "--yes")
    assert (result.exit_code, result.stdout.strip()[-9:]) == (0, " 1 event."[-9:])
    assert json.loads(run("audit", "--json").stdout)["entries"][0]["detail"]["older_than_seconds"] == 0


@pytest.mark.usefixtures("terminal", "dry_run")
def test_purge_of_what_is_zero_seconds_old_is_not_one_of_thirty_days(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1")
    assert run("worker", "--once").exit_code == 0
    assert run("purge", "--older-than", "30d").stdout == "0 events would be deleted.\n"
    assert run("purge", "--older-than", "0s", "--yes").stdout == "Deleted: 1 event.\n"


@pytest.mark.usefixtures("terminal")
def test_resync_does_not_pass_over_an_option_in_silence() -> None:
    result = run("resync", "driver-1", "--after", "driver-0")
    assert (result.exit_code, "--after" in result.stderr) == (2, True)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_takes_or_refuses_every_value_in_one_line(
    migrated_sqlite_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is taken serves: nothing that is accepted at start dies of it later."""
    monkeypatch.setenv("DATABASE_URL", migrated_sqlite_url)
    monkeypatch.setenv("HUBSPOT_ENABLED", "true")
    objections = {}
    turn = sorted(Settings.model_fields).index(name)
    for value in some_of(("", "-1", "0.000000001", str(10**9), "nan", "é"), turn):
        monkeypatch.setenv(name.upper(), value)
        for arguments in (["worker", "--once"], ["purge", "--yes"]):
            with interrupted_after(20):
                result = run(*arguments)
            if (objection := objection_to(result)) is not None:
                objections[f"{name}={value} {arguments}"] = objection
            if name.upper() in result.stderr:
                # Every command refuses a setting alike.
                break
    assert objections == {}


def on_terminal(url: str, *arguments: bytes | str, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    """A real process; where Python would change a terminal's encoding to UTF-8, it is kept from it."""
    settings = {"DATABASE_URL": url, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    locale = {"LC_ALL": "C.UTF-8" if encoding == "utf-8" else "C"}
    command = [sys.executable, "-m", "app.cli", *arguments]
    return subprocess.run(
        command, cwd=BACKEND, env=os.environ | settings | locale, capture_output=True, timeout=60, check=False
    )


on_sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@on_sqlite_only
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_terminal_that_lacks_a_letter_shows_an_escape(
    hubspot: HubSpot, live: Sandbox, database_url: str, encoding: str
) -> None:
    hubspot.provision()
    hubspot.sign_up("żółć")
    hubspot.deliver()
    live.run(lambda account: account.contacts.clear())
    seen = on_terminal(database_url, "contact", "żółć".encode(), encoding=encoding)
    assert (seen.returncode, seen.stderr) == (1, b"")
    assert "żółć: HubSpot has no such contact".encode(encoding, "backslashreplace") in seen.stdout
    assert rb"\u2260" in seen.stdout
    help_ = on_terminal(database_url, "retry", "--help", encoding=encoding)
    assert (help_.returncode, help_.stderr) == (0, b"")


@on_sqlite_only
def test_full_disk_behind_stdout_is_told_in_one_line_and_a_missing_stderr_is_no_matter(
    hubspot: HubSpot, database_url: str
) -> None:
    command = [sys.executable, "-m", "app.cli", "status"]
    environment = os.environ | {"DATABASE_URL": database_url}
    with open("/dev/full", "w") as full:
        told = subprocess.Popen(command, cwd=BACKEND, env=environment, stdout=full, stderr=subprocess.PIPE)
        closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
        mute = subprocess.Popen(closed, cwd=BACKEND, env=environment, stdout=subprocess.PIPE)
        (_, words), (figures, _) = told.communicate(timeout=60), mute.communicate(timeout=60)
    assert (told.returncode, words) == (1, b"What was to be told could not be written: No space left on device.\n")
    assert (mute.returncode, b"pending" in figures) == (0, True)


@on_sqlite_only
def test_hold_for_a_reason_of_any_bytes_holds(hubspot: HubSpot, database_url: str) -> None:
    held = on_terminal(database_url, "hold", b"Caf\xe9 \xff")
    assert (held.returncode, b"Traceback" in held.stderr) == (0, False)
    assert hubspot.gate().reason == r"Caf\xe9 \xff"
