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


FAULTS = {
    "the fence is dropped": Fault(
        "claims.py", 'c.id == rows.c.id, c.claim_token == bindparam("token", type_=Text)', "c.id == rows.c.id"
    ),
    "the subject rule is dropped": Fault("claims.py", "            ~has_earlier,\n", ""),
    "followers of a head that backs off are taken": Fault(
        "claims.py", "candidates.c.unbroken == 1, travels_now", "travels_now"
    ),
    "a charged event takes others along": Fault(
        "claims.py", "candidates.c.unbroken == 1, travels_now", "candidates.c.unbroken == 1"
    ),
    "a retried event does not wait for a younger claimed one": Fault(
        "claims.py", "            or_(c.retried_at.is_(None), ~has_claimed),\n", ""
    ),
    "claimed events are claimed again": Fault(
        "claims.py",
        "            outbox.is_open(),\n            c.claim_token.is_(None),\n",
        "            outbox.is_open(),\n",
    ),
    "backoff is not waited for": Fault(
        "claims.py",
        "            c.claim_token.is_(None),\n            c.available_at <= DatabaseNow(),\n            c.event_type",
        "            c.claim_token.is_(None),\n            c.event_type",
    ),
    "events that a retry needs are purged": Fault("queries.py", ", ~has_older_failure, ~has_older_retry", ""),
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
        "claims.py",
        '        .limit(bindparam("limit", type_=Integer))\n        .cte("batch")',
        '        .cte("batch")',
    ),
}


def run_state_machine(backend: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "tests/outbox/test_one_behaviour.py"]
    # Found is enough: the smallest example of it would take minutes more.
    environment = os.environ | {"STATE_MACHINE_EXAMPLES": "150"}
    return subprocess.run(command, cwd=backend, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    backend = tmp_path / "backend"
    ignore = shutil.ignore_patterns("__pycache__", "*.db*", ".hypothesis", ".*_cache")
    shutil.copytree(BACKEND, backend, ignore=ignore)
    source = backend / "outbox" / fault.file
    text = source.read_text()
    assert text.count(fault.right) == 1, f"{fault.file} has {text.count(fault.right)} places that read: {fault.right}"
    source.write_text(text.replace(fault.right, fault.wrong))
    result = run_state_machine(backend)
    assert result.returncode == 1, result.stdout[-3000:]
    assert "FAILED" in result.stdout
