"""Three worker processes, each on a way of its own to the database; one that is killed gets a successor."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import make_url

from tests.proxy import Proxy, proxied

WORKERS = 3
_BACKEND = Path(__file__).parents[3]
# Longer than a worker's own deadlines at its end.
_END_SECONDS = 60
_BEGIN_SECONDS = 60
_BEGUN = re.compile(r"worker started")
_LOST_LEASE = re.compile(r"Lost the lease of (\d+) events")
_GIVEN_UP = re.compile(r"its connection is given up")
_TROUBLE = re.compile(r"Traceback|A delivery ended unsettled|The destination failed")


@dataclass(slots=True)
class WorkerProcess:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    is_stopped: bool = False

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass(slots=True)
class Fleet:
    """`command` runs a worker, given its name and its way to the database by NAME and DATABASE_URL."""

    proxies: Sequence[Proxy]
    urls: Sequence[str]
    folder: Path
    command: Sequence[str]
    environment: Mapping[str, str]
    present: list[WorkerProcess] = field(default_factory=list)
    killed: list[WorkerProcess] = field(default_factory=list)

    def start(self) -> None:
        self.present = [self._spawn(place, 0) for place in range(len(self.urls))]
        self.await_all()

    def await_all(self) -> None:
        """Return once every worker has begun: before that it can be neither stopped nor asked to stop."""
        deadline = time.monotonic() + _BEGIN_SECONDS
        while not all(_BEGUN.search(it.said()) for it in self.present):
            assert time.monotonic() < deadline, [it.said() for it in self.present]
            time.sleep(0.05)

    def place_of(self, worker: WorkerProcess) -> int:
        return self.present.index(worker)

    def awake(self) -> list[WorkerProcess]:
        return [it for it in self.present if not it.is_stopped]

    def replace(self, worker: WorkerProcess) -> None:
        """Kill it, and start another in its place."""
        place = self.place_of(worker)
        worker.process.kill()
        worker.process.wait()
        self.killed.append(worker)
        self.present[place] = self._spawn(place, sum(it.name.startswith(f"worker-{place}.") for it in self.killed))

    def end(self) -> list[str]:
        """Stop everyone by SIGTERM; what was wrong with how they ended, and with what they said before."""
        self.await_all()
        for it in self.present:
            it.signal(signal.SIGTERM)
        objections = []
        for it in self.present:
            try:
                code = it.process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                objections.append(f"{it.name} did not end; its last words:\n{it.said()[-2000:]}")
                continue
            if code != 0:
                objections.append(f"{it.name} ended with {code}; its last words:\n{it.said()[-2000:]}")
        for it in [*self.present, *self.killed]:
            if (found := _TROUBLE.search(it.said())) is not None:
                objections.append(f"{it.name} said: {it.said()[max(0, found.start() - 500) : found.end() + 2000]}")
        return objections

    def last_words(self) -> str:
        return "\n".join(f"{it.name} said last:\n{it.said()[-1500:]}" for it in self.present)

    def count_lost_leases(self) -> int:
        """Of events that a worker could not settle because it had lost them, as they say themselves."""
        everyone = (*self.present, *self.killed)
        return sum(int(count) for it in everyone for count in _LOST_LEASE.findall(it.said()))

    def count_given_up(self) -> int:
        return sum(len(_GIVEN_UP.findall(it.said())) for it in (*self.present, *self.killed))

    def kill_all(self) -> None:
        for it in self.present:
            it.process.kill()
            it.process.wait()

    def _spawn(self, place: int, generation: int) -> WorkerProcess:
        name = f"worker-{place}.{generation}"
        url = make_url(self.urls[place])
        if url.get_backend_name() == "postgresql":
            url = url.update_query_dict({"application_name": name})
        own = {"NAME": name, "DATABASE_URL": url.render_as_string(hide_password=False)}
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                # It ends with us, however we end.
                [sys.executable, "-m", "demo.tether", str(os.getpid()), sys.executable, *self.command],
                cwd=_BACKEND,
                env={**os.environ, **self.environment, **own},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return WorkerProcess(name, process, log)


@contextmanager
def run_fleet(
    database_url: str, folder: Path, command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[Fleet]:
    with ExitStack() as stack:
        ways = [stack.enter_context(proxied(database_url)) for _ in range(WORKERS)]
        fleet = Fleet([proxy for proxy, _ in ways], [url for _, url in ways], folder, command, environment)
        stack.callback(fleet.kill_all)
        fleet.start()
        yield fleet
