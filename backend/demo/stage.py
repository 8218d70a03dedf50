"""What the demo plays on: a fresh database, the sandbox and the application, each a process of its own on loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import httpx2
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine

from app.models import OUTBOX
from app.settings import Settings
from demo.child import Child
from demo.codes import Codes
from demo.errors import DemoFailed
from demo.sandbox import SandboxAccount
from sqlalchemy_outbox import GateState
from sqlalchemy_outbox.operating.status import Status, read_status

HOST = "127.0.0.1"
START_DEADLINE = timedelta(seconds=30)
POLL = timedelta(milliseconds=100)
# A fault that none of the worker's requests meets is waited for no longer.
_FAULT_WAIT_MAX = timedelta(seconds=5)

PORTAL_ID = "12345678"
TOKEN = "pat-demo"
SERVICE_KEY = "demo-charging-network"
OPERATOR_TOKEN = "demo-operators-token"
ERASURE_KEY = "demo-key-by-which-the-forgotten-are-known"


class PortTaken(DemoFailed):
    """Something listens there already."""


@dataclass(frozen=True, slots=True)
class Ports:
    application: int
    sandbox: int


def free_ports() -> Ports:
    """Two ports that nobody listens on now."""
    with socket.socket() as one, socket.socket() as other:
        one.bind((HOST, 0))
        other.bind((HOST, 0))
        return Ports(one.getsockname()[1], other.getsockname()[1])


def check_free(ports: Ports) -> None:
    """Raise PortTaken where a server could not listen."""
    for name, port in (("application", ports.application), ("sandbox", ports.sandbox)):
        with socket.socket() as probe:
            # As servers do, so that a connection that has just ended does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise PortTaken(f"Port {port}, meant for the {name}, is taken: end what listens there.") from error


class Stage:
    """The running processes. `engine` only reads."""

    def __init__(self, folder: Path, ports: Ports) -> None:
        self.application_url = f"http://{HOST}:{ports.application}"
        self.sandbox_url = f"http://{HOST}:{ports.sandbox}"
        self.codes = Codes()
        self.show_log: Callable[[str], None] | None = None
        self._ports = ports
        database_url = f"sqlite:///{folder / 'nerava.db'}"
        self._environment = _environment(database_url, self.sandbox_url)
        # A plain engine: its transactions begin as readers, so that watching takes no writer's turn.
        self.engine: Engine = create_engine(database_url)
        self.account = SandboxAccount(self.sandbox_url, TOKEN)
        self._sandbox: Child | None = None
        self._application: Child | None = None

    @property
    def settings_for_commands(self) -> dict[str, str]:
        """What differs from the defaults, for a command line on the same database and sandbox."""
        return {name: self._environment[name] for name in _OF_THE_DEMO}

    async def migrate(self) -> None:
        await self._run("migration", "-m", "alembic", "upgrade", "head")

    async def provision(self) -> None:
        await self._run("provisioning", "-m", "app.cli", "provision")

    async def launch_sandbox(self) -> None:
        """Begin to start the sandbox; `await_sandbox` sees it through."""
        arguments = ("-m", "hubspot_sandbox", "--port", str(self._ports.sandbox), "--quiet", "--seed", "1")
        self._sandbox = await Child.start(
            "sandbox", (*arguments, "--portal-id", PORTAL_ID, "--token", TOKEN), self._environment
        )

    async def await_sandbox(self) -> None:
        assert self._sandbox is not None
        await _until_it_answers(self._sandbox, f"{self.sandbox_url}/sandbox/stats")

    async def start_application(self) -> None:
        arguments = ("-m", "uvicorn", "app.main:app", "--host", HOST, "--port", str(self._ports.application))
        self._application = await Child.start(
            "application",
            (*arguments, "--no-access-log", "--log-level", "warning"),
            self._environment,
            self._read_log_line,
        )
        await _until_it_answers(self._application, f"{self.application_url}/readyz")

    async def kill_application(self) -> int:
        """End the application by SIGKILL and return the process id it had."""
        assert self._application is not None
        application, self._application = self._application, None
        await application.kill()
        return application.pid

    async def guard(self) -> NoReturn:
        """Raise ChildFailed as soon as a process has ended that nobody killed."""
        while True:
            for child in (self._application, self._sandbox):
                if child is not None and child.has_ended:
                    raise child.failure("ended by itself")
            await asyncio.sleep(POLL.total_seconds())

    async def read_status(self) -> Status:
        def read() -> Status:
            with self.engine.connect() as connection:
                return read_status(connection, OUTBOX)

        return await asyncio.to_thread(read)

    async def until_recovered(self) -> None:
        """Return when the gate is open and no fault is left, or none that the worker's requests meet soon."""
        ends_at = time.monotonic() + _FAULT_WAIT_MAX.total_seconds()
        while await self._has_trouble(is_fault_awaited=time.monotonic() < ends_at):  # noqa: ASYNC110  # Others end it.
            await asyncio.sleep(POLL.total_seconds())

    async def _has_trouble(self, *, is_fault_awaited: bool) -> bool:
        status = await self.read_status()
        if status.gate.state is not GateState.OPEN:
            return True
        # Without events on their way nobody would meet it.
        return is_fault_awaited and status.pending + status.claimed > 0 and await self.account.has_faults()

    async def close(self) -> None:
        """End both processes; afterwards none is left."""
        children = [it for it in (self._application, self._sandbox) if it is not None]
        await asyncio.gather(*(it.stop() for it in children))
        self.engine.dispose()
        await self.account.close()

    def _read_log_line(self, line: str) -> None:
        self.codes.read_line(line)
        if self.show_log is not None:
            self.show_log(line)

    async def _run(self, name: str, *arguments: str) -> None:
        child = await Child.start(name, arguments, self._environment)
        try:
            await child.finish()
        finally:
            await child.stop()


@asynccontextmanager
async def set_stage(ports: Ports, say: Callable[[str], None]) -> AsyncIterator[Stage]:
    """A stage with everything up, in a temporary folder; on leaving, both are gone, whatever happened."""
    check_free(ports)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nerava-demo-"))
        stage = Stage(Path(folder), ports)
        stack.push_async_callback(stage.close)
        await stage.launch_sandbox()
        await stage.migrate()
        await stage.await_sandbox()
        say(f"A fresh SQLite database is migrated; the HubSpot sandbox is up on {stage.sandbox_url}.")
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.provision())
            group.create_task(stage.start_application())
        say(f"The contact properties are provisioned; Nerava is up on {stage.application_url}.")
        yield stage


_OF_THE_DEMO = (
    "DATABASE_URL",
    "HUBSPOT_ENABLED",
    "HUBSPOT_SEND_LIVE",
    "HUBSPOT_PRIVATE_APP_TOKEN",
    "HUBSPOT_PORTAL_ID",
    "HUBSPOT_BASE_URL",
    "HUBSPOT_ERASURE_KEY",
)


def _environment(database_url: str, sandbox_url: str) -> dict[str, str]:
    """Every setting is stated, most as their defaults, so that a developer's own `.env` changes nothing here."""
    defaults = {name.upper(): _as_text(field.default) for name, field in Settings.model_fields.items()}
    return {
        **os.environ,
        **defaults,
        "DATABASE_URL": database_url,
        "HUBSPOT_ENABLED": "true",
        "HUBSPOT_SEND_LIVE": "true",
        "HUBSPOT_PRIVATE_APP_TOKEN": TOKEN,
        "HUBSPOT_PORTAL_ID": PORTAL_ID,
        "HUBSPOT_BASE_URL": sandbox_url,
        "CHARGER_SERVICE_KEY": SERVICE_KEY,
        "OPERATOR_TOKEN": OPERATOR_TOKEN,
        "HUBSPOT_ERASURE_KEY": ERASURE_KEY,
        # Lines are read as they are written.
        "PYTHONUNBUFFERED": "1",
    }


def _as_text(default: object) -> str:
    return default.get_secret_value() if isinstance(default, SecretStr) else str(default)


async def _until_it_answers(child: Child, url: str) -> None:
    """Return once `url` answers 200; raise ChildFailed when the process ends or takes too long."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        try:
            async with asyncio.timeout(START_DEADLINE.total_seconds()):
                while not await _answers(http, url):
                    if child.has_ended:
                        raise child.failure("ended while it started")
                    await asyncio.sleep(POLL.total_seconds())
        except TimeoutError:
            raise child.failure(f"did not answer within {START_DEADLINE.total_seconds():.0f} s") from None


async def _answers(http: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == 200
    except httpx2.TransportError:
        return False
