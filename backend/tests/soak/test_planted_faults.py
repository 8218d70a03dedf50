"""The state machine bites: each of these faults, planted into a copy of the outbox, makes it fail.

A fault whose text is no longer found fails too, so that the list cannot grow old unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

BACKEND = Path(__file__).parents[2]


@dataclass(frozen=True)
class Fault:
    file: str
    right: str
    wrong: str
    # A second place, where one alone would be made good by another.
    also: tuple[str, str] | None = None


FAULTS = {
    "the fence is dropped": Fault(
        "leases.py",
        "        .where(c.claim_token == token)\n",
        "",
        also=("    if at is None:\n        return NOTHING_ENDED\n", ""),
    ),
    "a claim is made without a lease": Fault(
        "claims.py", "    connection.execute(_begin_lease(outbox), parameters)\n", ""
    ),
    "what was handed back keeps its lease": Fault(
        "leases.py",
        "    ending = _end_lease(outbox).returning(outbox.leases.c.event_ids)\n",
        "    ending = select(outbox.leases.c.event_ids).where(outbox.leases.c.token == _TOKEN)\n",
    ),
    "the subject rule is dropped": Fault(
        "candidates.py",
        "            ~_has_earlier(outbox, events),\n",
        "",
        also=(
            ".where(outbox.is_in_line(events), events.c.id > untold(",
            ".where(_is_due(events, dialect_name), outbox.is_in_line(events), events.c.id > untold(",
        ),
    ),
    "an event that backs off is taken with those before it": Fault(
        "candidates.py",
        "            runs.c.unbroken == ONE,\n            or_(runs.c.id == runs.c.head_id, is_follower_taken),\n",
        "",
    ),
    "a charged event takes others along": Fault("candidates.py", ".where(travels_now, *_in", ".where(*_in"),
    "what is set apart is passed over by those behind it": Fault(
        "candidates.py", "heads.c.apart.is_(None)", "heads.c.apart.is_not(1)"
    ),
    "a waiting event loses its mark": Fault(
        "leases.py", "waits_for=case((state == State.PENDING.value, waits_for), else_=null()),", "waits_for=null(),"
    ),
    "a retried event does not wait for a younger claimed one": Fault(
        "candidates.py",
        "            or_(c.retried_at.is_(None), ~has_claimed.correlate(events).exists()),\n",
        "",
    ),
    "claimed events are claimed again": Fault(
        "candidates.py", "return and_(c.claim_token.is_(None), c.available_at", "return and_(c.available_at"
    ),
    "backoff is not waited for": Fault(
        "candidates.py",
        "c.claim_token.is_(None), c.available_at <= DatabaseNow(), is_known",
        "c.claim_token.is_(None), is_known",
    ),
    "events that a retry needs are purged": Fault("purge.py", ", *_is_needed_no_more(self._outbox)", ""),
    "an event that has not failed is discarded": Fault(
        "selection.py", "return [is_failed, is_of(selection,", "return [is_of(selection,"
    ),
    "a discarded event is not kept": Fault(
        "moves.py", "    connection.execute(insert(discarded).from_select(columns, kept))\n", ""
    ),
    "a discarded event stays as well": Fault(
        "moves.py", "    connection.execute(delete(events).where(events.c.id.in_(ids)))\n", ""
    ),
    "a discard takes its subject's other events along": Fault(
        "moves.py",
        "    connection.execute(delete(events).where(events.c.id.in_(ids)))\n",
        "    subjects = select(events.c.subject).where(events.c.id.in_(ids))\n"
        "    connection.execute(delete(events).where(events.c.subject.in_(subjects)))\n",
    ),
    "a throttle is charged": Fault(
        "settlement.py",
        "            return _hand_back(event, reason, wait)",
        '            return _charge(event, "", random)',
    ),
    "every merged event is charged": Fault(
        "settlement.py", "            charged.add(event.subject)\n", "            pass\n"
    ),
    "four attempts are made": Fault("settlement.py", "if attempts >= ATTEMPTS_MAX", "if attempts > ATTEMPTS_MAX"),
    "a rolled back event is kept": Fault("enqueue.py", "        buffer.drop(previous)\n", "        pass\n"),
    "the claim exceeds its limit": Fault(
        "candidates.py",
        '        .limit(limited)\n        .cte("batch")',
        '        .cte("batch")',
    ),
}


def run_state_machine(backend: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "tests/outbox/test_one_behaviour.py"]
    # Found is enough: the smallest example of it would take minutes more.
    environment = os.environ | {"STATE_MACHINE_EXAMPLES": "400"}
    return subprocess.run(command, cwd=backend, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    backend = tmp_path / "backend"
    ignore = shutil.ignore_patterns("__pycache__", "*.db*", ".hypothesis", ".*_cache")
    shutil.copytree(BACKEND, backend, ignore=ignore)
    source = backend / "outbox" / fault.file
    text = source.read_text()
    for right, wrong in [(fault.right, fault.wrong), *([fault.also] if fault.also else [])]:
        assert text.count(right) == 1, f"{fault.file} has {text.count(right)} places that read: {right}"
        text = text.replace(right, wrong)
    source.write_text(text)
    result = run_state_machine(backend)
    assert result.returncode == 1, result.stdout[-3000:]
    assert "FAILED" in result.stdout
