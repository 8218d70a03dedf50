"""Each example runs as its first lines say, on real servers, and stays as short as an example must be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from socket import socket

import httpx2
import pytest

from hubspot_sandbox import Sandbox
from sqlalchemy_outbox import worker_engine
from tests.conftest import BACKEND
from tests.postgres import memory

EXAMPLES = BACKEND.parent / "examples"
QUICK_START = BACKEND.parent / "docs" / "quickstart.md"
# Lines that hold something.
LINES_MAX = {"academy": 80, "lending": 45, "members": 40, "parcels": 40}
OPERATOR_TOKEN = "operators-token-of-the-tests"
DEADLINE_SECONDS = 60


@pytest.fixture
def environment(hubspot_sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": f"{BACKEND}:{EXAMPLES}",
        "HUBSPOT_ENABLED": "true",
        "HUBSPOT_SEND_LIVE": "true",
        "HUBSPOT_PRIVATE_APP_TOKEN": "any",
        "HUBSPOT_PORTAL_ID": "12345678",
        "HUBSPOT_BASE_URL": hubspot_sandbox.url,
        "HUBSPOT_REQUESTS_PER_SECOND": "100",
        "OPERATOR_TOKEN": OPERATOR_TOKEN,
        "DATABASE_URL": f"sqlite:///{(memory() or tmp_path) / f'example-{tmp_path.name}-{os.getpid()}.db'}",
    }


@pytest.mark.parametrize(("name", "lines_max"), LINES_MAX.items())
def test_example_is_short(name: str, lines_max: int) -> None:
    lines = [line for line in (EXAMPLES / f"{name}.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= lines_max


def test_academy_delivers_by_a_worker_apart_and_is_operated_by_its_page_and_commands(
    environment: dict[str, str],
    hubspot_sandbox: Sandbox,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = postgres_url.replace("+psycopg", "+asyncpg")
    environment |= {"DATABASE_URL": url, "HUBSPOT_WORKER_IN_APP": "false"}
    make_tables(url, monkeypatch)
    assert "academy_student_id" in run(["-m", "academy", "provision"], environment)
    port = free_port()
    with running(["-m", "uvicorn", "academy:app", "--port", str(port)], environment, port) as http:
        student = {"student_id": "s1", "email": "ada@example.com", "course": "SQL"}
        http.post("/enrolments", params=student).raise_for_status()
        health = http.get("/ops/hubspot/health").raise_for_status().json()
        assert "python -m academy worker" in health["worker"]["reason"]
        assert http.get("/ops/hubspot/metrics").status_code == 401
        bearer = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
        metrics = http.get("/ops/hubspot/metrics", headers=bearer).raise_for_status().text
        assert 'outbox_events{outbox="outbox_events",state="pending"} 1.0' in metrics
        assert "Operator" in http.get("/ops/hubspot/", follow_redirects=True).raise_for_status().text
        run(["-m", "academy", "worker", "--once"], environment)
    contact = hubspot_sandbox.contact(academy_student_id="s1")
    assert contact is not None
    assert (contact["properties"]["email"], contact["properties"]["academy_course"]) == ("ada@example.com", "SQL")


def make_tables(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.syspath_prepend(EXAMPLES)
    academy = import_module("academy")
    engine = worker_engine(url)
    academy.Base.metadata.create_all(engine)
    engine.dispose()


def test_quick_start_ends_with_a_contact_in_the_sandbox(environment: dict[str, str], tmp_path: Path) -> None:
    [served, operated] = re.findall(r"```sh\n(.*?)```", QUICK_START.read_text(), re.DOTALL)
    ports = {"8025": free_port(), "5000": free_port()}
    for name in [name for name in environment if name.startswith(("HUBSPOT_", "DATABASE_"))]:
        del environment[name]
    shutil.copy(EXAMPLES / "lending.py", tmp_path)
    here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(BACKEND)}
    *exports, serve = with_ports(served, ports).splitlines()
    environment |= here | dict(re.findall(r"(\w+)=(\S+)", "\n".join(exports)))
    sandbox = ["-m", "hubspot_sandbox", "--port", str(ports["8025"]), "--quiet"]
    serving = running(["-m", *serve.split()], environment, ports["5000"], tmp_path)
    with running(sandbox, environment, ports["8025"]) as hubspot, serving:
        for command in with_ports(operated, ports).splitlines():
            subprocess.run(command, shell=True, check=True, env=environment, cwd=tmp_path, timeout=DEADLINE_SECONDS)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (contacts := hubspot.get("/sandbox/contacts").json()["results"]):
            assert time.monotonic() < deadline, "the contact does not arrive"
            time.sleep(0.05)
    assert contacts[0]["properties"]["library_last_book"] == "Emma"


def with_ports(commands: str, ports: Mapping[str, int]) -> str:
    for written, free in ports.items():
        commands = commands.replace(written, str(free))
    return commands


def test_members_of_a_file_become_contacts(
    environment: dict[str, str],
    hubspot_sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    members = tmp_path / "members.csv"
    members.write_text("member_id,email\nm1,ada@example.com\nm2,grace@example.com\n")
    run(["-m", "members", "provision"], environment)
    run(["-m", "members", "import", str(members)], environment)
    assert [it["properties"]["club_member_id"] for it in hubspot_sandbox.contacts()] == ["m1", "m2"]


def run(arguments: list[str], environment: Mapping[str, str]) -> str:
    ended = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextmanager
def running(
    arguments: list[str], environment: Mapping[str, str], port: int, folder: Path | None = None
) -> Iterator[httpx2.Client]:
    """A client of the server that these arguments start."""
    server = subprocess.Popen([sys.executable, *arguments], env=environment, cwd=folder)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not answers(http):
                assert server.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.05)
            yield http
    finally:
        server.terminate()
        server.wait()


def answers(http: httpx2.Client) -> bool:
    try:
        http.get("/")
    except httpx2.TransportError:
        return False
    return True


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
