"""The demo itself, small: real processes, real traffic, real faults."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
from rich.console import Console

from demo.evening import write_evening
from demo.performance import prove
from demo.report import Report
from demo.stage import HOST, TOKEN, Ports, PortTaken, Stage, check_free, free_ports

BACKEND = Path(__file__).parents[2]
# Where all cores are busy, most of it is the starting of processes.
DEADLINE_SECONDS = 180
# The demo, the sandbox, and side by side the application and the provisioning.
ALL_PROCESSES = 4

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked for in /proc")


class Demo:
    """The command in a process of its own. Its children inherit a mark, by which they can be found."""

    def __init__(self, *arguments: str, temporary_folder: Path | None = None) -> None:
        self._mark = f"DEMO_UNDER_TEST={uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "demo", *arguments],
            cwd=BACKEND,
            env={**os.environ, name: value, **({"TMPDIR": str(temporary_folder)} if temporary_folder else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> tuple[int, str]:
        """Its exit code and what it printed."""
        printed, _ = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, printed

    def read_until(self, words: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words in line:
                return
        pytest.fail(f"The demo ended before it printed {words!r}.")

    def processes(self) -> list[int]:
        """The demo's processes that live, itself included."""
        return [int(it.name) for it in Path("/proc").iterdir() if it.name.isdigit() and self._owns(it)]

    def _owns(self, folder: Path) -> bool:
        try:
            return self._mark.encode() in (folder / "environ").read_bytes()
        except OSError:  # It has just ended, or it is another user's.
            return False


@pytest.fixture(scope="module", autouse=True)
def whole_demo() -> Iterator[Demo]:
    """Mostly it waits for the killed worker's lease to end, so the other tests run meanwhile."""
    demo = Demo("--drivers", "12", "--events", "120")
    yield demo
    demo.process.kill()
    demo.process.communicate()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_a_lost_event_and_a_contact_that_differs_end_the_demo_with_exit_code_1() -> None:
    losing = differing = ""

    async def plant(stage: Stage) -> None:
        nonlocal losing, differing
        with closing(sqlite3.connect(str(stage.engine.url.database))) as db, db:
            losing, differing = (row[0] for row in db.execute("SELECT id FROM drivers ORDER BY created_at LIMIT 2"))
            db.execute("DELETE FROM outbox_events WHERE subject = ? AND event_type = 'driver_signed_up'", (losing,))
        async with httpx2.AsyncClient(base_url=stage.sandbox_url, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            path = f"/crm/objects/2026-09/contacts/{differing}?idProperty=nerava_user_id"
            answer = await http.patch(path, json={"properties": {"nerava_stage": "signed_up"}})
            answer.raise_for_status()

    printed = io.StringIO()
    report = Report(Console(file=printed, width=200))

    exit_code = await prove(write_evening(6, 60), (), free_ports(), report, before_audit=plant)

    assert exit_code == 1
    assert f"✗ lost: driver_signed_up of driver {losing}: the outbox has no row" in printed.getvalue()
    assert f"✗ contact of driver {differing}: nerava_stage is 'signed_up', must be 'redeeming'" in printed.getvalue()
    assert printed.getvalue().count("✗") == 2


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_and_everything_it_started(number: signal.Signals) -> None:
    demo = Demo()
    demo.read_until("the HubSpot sandbox is up")
    until(lambda: len(demo.processes()) == ALL_PROCESSES)

    demo.process.send_signal(number)

    assert demo.finish()[0] == 128 + number
    assert demo.processes() == []


@needs_proc
def test_a_demo_that_is_killed_leaves_no_process_either(tmp_path: Path) -> None:
    demo = Demo(temporary_folder=tmp_path)
    demo.read_until("the HubSpot sandbox is up")
    until(lambda: len(demo.processes()) == ALL_PROCESSES)

    demo.process.kill()
    demo.finish()

    until(lambda: demo.processes() == [])


def test_what_stays_up_takes_ports_and_prints_what_commands_need_to_work_on_its_database(tmp_path: Path) -> None:
    ports = free_ports()
    arguments = ("--port", str(ports.application), "--sandbox-port", str(ports.sandbox))
    demo = Demo("--stay", *arguments, "--drivers", "2", "--events", "12", temporary_folder=tmp_path)
    assert demo.process.stdout is not None
    lines = []
    for line in demo.process.stdout:
        lines.append(line)
        if "Ctrl-C ends all" in line:
            break
    pasted = "\n".join(line for line in lines if line.startswith("export "))
    status, forget = (
        subprocess.run(
            [*("bash", "-c"), f"{pasted}\n{sys.executable} -m app.cli {command}"],
            cwd=BACKEND,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )
        for command in ("status --json", "forget somebody --reason 'asked for it' --yes")
    )
    demo.process.send_signal(signal.SIGINT)
    demo.finish()
    assert json.loads(status.stdout)["delivered"] >= 12, status.stderr
    assert forget.returncode == 0, forget.stderr


def test_a_bad_file_is_a_message_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("sessionId,userId,ended,kwhTotal,platform,locationId\n1,2,0014-01-01,x,ios,3\n")

    exit_code, printed = Demo("--sessions", str(tmp_path / "bad.csv")).finish()

    assert exit_code == 1
    assert printed == "bad.csv, line 2, column kwhTotal: 'x' is no number of kWh\n"


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"Port {port}, meant for the sandbox, is taken"):
            check_free(Ports(free_ports().application, port))


@needs_proc
def test_the_whole_demo_survives_its_faults_and_leaves_no_process(whole_demo: Demo) -> None:
    exit_code, printed = whole_demo.finish()

    assert exit_code == 0, printed
    assert re.search(r"events expected +1\d\d ", printed)
    assert re.search(r"lost +0 ", printed)
    for fault in ("SIGKILL", "429", "502", "down", "resets"):
        assert fault in printed
    assert re.search(r"(?s)429 × \d.* 502 × \d.* reset ×\s+\d", printed)
    assert re.search(r"(?s)requests repeated +\d.*the\s+application\s+was\s+down ×\s+\d", printed)
    assert whole_demo.processes() == []
