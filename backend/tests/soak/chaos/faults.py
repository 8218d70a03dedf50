"""What goes wrong, when and to whom: drawn from a seed, and written down as it happens."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from sqlalchemy import Engine, text

from sqlalchemy_outbox.lease import LEASE
from tests.postgres import Cluster
from tests.soak.chaos.fleet import Fleet, WorkerProcess


class Kind(StrEnum):
    KILL = "a worker is killed"
    STOP = "a worker is stopped past its lease"
    TERMINATE = "backends of workers are terminated"
    RESTART = "PostgreSQL crashes and starts again"
    SILENCE = "a worker's connections fall silent"
    LATE = "the destination answers too late"


# A worker's leases have run out, another has noticed, and what was charged has come again.
_STOPPED_SECONDS = LEASE.total_seconds() + 3
# Until everyone who used what broke has noticed.
_AFTERMATH_SECONDS = 1.0
_EVERY_SECONDS = (1.5, 3.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """`workers` are those that it hit, from `begins_at` until it was over and could show no more."""

    kind: Kind
    workers: frozenset[str]
    begins_at: float
    ends_at: float

    def hits(self, worker: str, since: float, until: float) -> bool:
        return worker in self.workers and self.begins_at <= until and since <= self.ends_at


@dataclass(frozen=True, slots=True)
class Plan:
    """Kinds and when they begin, in seconds."""

    faults: Sequence[tuple[float, Kind]]


def draw_plan(seed: int, seconds: float) -> Plan:
    """Every kind in turn, in random order, at random moments within `seconds`.

    A worker is stopped first of all, because that lasts longest, and another is killed early, so that its leases run
    out meanwhile.
    """
    random = Random(seed)
    faults = [(1.0, Kind.STOP), (2.5, Kind.KILL)]
    at, next_stop = 4.0, _STOPPED_SECONDS + 5
    kinds: list[Kind] = []
    while at < seconds:
        if not kinds:
            kinds = [
                it
                for it in Kind
                if it is not Kind.STOP and (it is not Kind.KILL or at + LEASE.total_seconds() < seconds)
            ]
            random.shuffle(kinds)
        faults.append((at, kinds.pop()))
        at += random.uniform(*_EVERY_SECONDS)
        if at > next_stop and at + _STOPPED_SECONDS < seconds:
            faults.append((at, Kind.STOP))
            next_stop = at + _STOPPED_SECONDS + 5
            at += random.uniform(*_EVERY_SECONDS)
    return Plan(faults)


@dataclass(slots=True)
class Chaos:
    """Carries out a plan, in the thread that calls it. `be_late(n)` has the destination answer n requests too late."""

    fleet: Fleet
    cluster: Cluster
    engine: Engine
    be_late: Callable[[int], None]
    seed: int
    faults: list[Fault] = field(default_factory=list)

    def reign(self, plan: Plan) -> None:
        """Return when all is over: everyone runs, and nothing is broken any more."""
        random = Random(self.seed)
        began_at = time.monotonic()
        stopped: list[tuple[float, WorkerProcess, float]] = []
        for at, kind in plan.faults:
            self._wait_until(began_at + at, stopped)
            if kind is Kind.STOP:
                worker = random.choice(self.fleet.awake())
                worker.signal(signal.SIGSTOP)
                worker.is_stopped = True
                stopped.append((time.monotonic() + _STOPPED_SECONDS, worker, time.time()))
            else:
                self._carry_out(kind, random)
        while stopped:
            self._wait_until(stopped[0][0], stopped)
        self.be_late(0)

    def _wait_until(self, moment: float, stopped: list[tuple[float, WorkerProcess, float]]) -> None:
        """Wake meanwhile those whose time has come."""
        while stopped and stopped[0][0] <= moment:
            wakes_at, worker, stopped_at = stopped.pop(0)
            _sleep_until(wakes_at)
            worker.signal(signal.SIGCONT)
            worker.is_stopped = False
            self._note(Kind.STOP, [worker], stopped_at)
        _sleep_until(moment)

    def _carry_out(self, kind: Kind, random: Random) -> None:
        began_at = time.time()
        worker = random.choice(self.fleet.awake())
        hit = [worker]
        if kind is Kind.KILL:
            self.fleet.replace(worker)
        elif kind is Kind.TERMINATE:
            hit = self._terminate(random)
        elif kind is Kind.RESTART:
            hit = self.fleet.present
            self.cluster.crash()
            self.cluster.start()
        elif kind is Kind.SILENCE:
            proxy = self.fleet.proxies[self.fleet.place_of(worker)]
            # What it sends may still arrive.
            random.choice((proxy.silence, proxy.deafen))()
        else:
            hit = []
            self.be_late(random.randint(2, 4))
        self._note(kind, hit, began_at)

    def _terminate(self, random: Random) -> list[WorkerProcess]:
        with self.engine.connect() as connection:
            backends = connection.execute(
                text(
                    "SELECT pid, application_name FROM pg_stat_activity WHERE application_name LIKE 'worker-%' "
                    "ORDER BY backend_start"
                )
            ).all()
            unlucky = random.sample(backends, min(len(backends), random.randint(1, 4)))
            for pid, _ in unlucky:
                connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        names = {name for _, name in unlucky}
        return [it for it in self.fleet.present if it.name in names]

    def _note(self, kind: Kind, workers: Sequence[WorkerProcess], began_at: float) -> None:
        ends_at = time.time() + _AFTERMATH_SECONDS
        self.faults.append(Fault(kind, frozenset(it.name for it in workers), began_at, ends_at))


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
