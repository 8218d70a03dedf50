"""Three nodes under Patroni: the leader is killed, switched over, and frozen for longer than it may lead."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from sqlalchemy import Engine

from hubspot_sandbox import Sandbox
from tests.conftest import missing_tool
from tests.soak.chaos.faults import Fault, Kind
from tests.soak.chaos.fleet import Fleet
from tests.soak.chaos.history import History
from tests.soak.chaos.load import Load
from tests.soak.failover.conftest import LOAD_SECONDS, earned
from tests.soak.failover.patroni import TTL_SECONDS, Node, Patroni, PatroniMissing, run_patroni
from tests.soak.test_chaos import Report, await_drained

# Silent connections are given up after 10 s, hosts that do not answer after 5 s each.
_PAUSE_OF_OURS_SECONDS = 20

pytestmark = pytest.mark.skipif("SOAK_LONG" not in os.environ, reason="it takes minutes; make soak LONG=1 runs it")


@pytest.fixture
def patroni(request: pytest.FixtureRequest) -> Iterator[Patroni]:
    try:
        with run_patroni(is_synchronous=request.param) as patroni:
            yield patroni
    except PatroniMissing as missing:
        missing_tool(str(missing))


@pytest.fixture
def url(patroni: Patroni) -> str:
    return patroni.url


@pytest.mark.parametrize("patroni", [True], ids=["synchronous"], indirect=True)
def test_nothing_is_lost_reordered_or_stuck_whatever_becomes_of_patronis_leader(
    patroni: Patroni, engine: Engine, load: Load, sandbox: Sandbox, fleet: Fleet, report: Report
) -> None:
    faults: dict[str, tuple[float, float]] = {}
    with load.running():
        for what, fault in (("killed", kill), ("switched over", switch_over), ("frozen", freeze)):
            time.sleep(LOAD_SECONDS)
            faults[what] = carry_out(fault, patroni)
        time.sleep(LOAD_SECONDS)
    await_drained(engine, fleet)
    load.touch_everyone()
    await_drained(engine, fleet)
    objections = fleet.end()
    everyone = frozenset(worker.name for worker in fleet.present)
    history = History.read(engine, load, [Fault(Kind.RESTART, everyone, *times) for times in faults.values()])
    objections += [*history.objections(), *load.objections()]
    assert not objections, "\n".join(objections[:20])
    assert earned(sandbox) == load.reached()
    seconds = {what: pause(history, *times) for what, times in faults.items()}
    report("Patroni's leader, in synchronous mode, longest pause of deliveries in s", history.figures() | seconds)
    assert max(seconds.values()) < TTL_SECONDS + _PAUSE_OF_OURS_SECONDS


@pytest.mark.parametrize("patroni", [False], ids=["asynchronous"], indirect=True)
def test_what_patroni_lost_in_asynchronous_mode_is_counted_and_all_else_is_delivered(
    patroni: Patroni, engine: Engine, load: Load, sandbox: Sandbox, fleet: Fleet, report: Report
) -> None:
    with load.running():
        time.sleep(LOAD_SECONDS)
        times = carry_out(kill, patroni)
        time.sleep(LOAD_SECONDS)
    await_drained(engine, fleet)
    load.touch_everyone()
    await_drained(engine, fleet)
    objections = fleet.end()
    history = History.read(engine, load, [])
    objections += [*history.about_what_exists(), *load.objections()]
    assert not objections, "\n".join(objections[:20])
    assert earned(sandbox) == load.reached()
    lack = {"events that were answered and are lost": len(history.lost())}
    seconds = {"longest pause of deliveries, s": pause(history, *times)}
    report("Patroni's leader is killed, in asynchronous mode", history.figures() | lack | seconds)


def carry_out(fault: Callable[[Patroni], None], patroni: Patroni) -> tuple[float, float]:
    """When it began, and when three nodes ran again."""
    began_at = time.time()
    fault(patroni)
    patroni.settle()
    return began_at, time.time()


def kill(patroni: Patroni) -> None:
    leader = patroni.leader()
    leader.signal(signal.SIGKILL)
    patroni.leader(besides=leader.name)
    leader.start()


def switch_over(patroni: Patroni) -> None:
    patroni.switch_over()


def freeze(patroni: Patroni) -> None:
    """It hears and does nothing, and then goes on with all that it had in hand."""
    leader: Node = patroni.leader()
    leader.signal(signal.SIGSTOP)
    patroni.leader(besides=leader.name)
    # Patroni 3.0.2 without a watchdog may let one that wakes in this very moment lead again, and others cannot follow.
    time.sleep(LOAD_SECONDS)
    leader.signal(signal.SIGCONT)


def pause(history: History, since: float, until: float) -> float:
    """The longest time without a delivery."""
    moments = [move.at for move in history.moves if move.is_delivered]
    gaps = [later - sooner for sooner, later in pairwise(moments) if sooner < until and since < later]
    return round(max(gaps), 1)
