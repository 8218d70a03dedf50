"""The property of any answer bites: each of these faults, planted into a copy of the destination, makes it fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.test_planted_faults import BACKEND, LONG, Fault

FAULTS = {
    "a wait that is no number raises": Fault(
        "hubspot_sync/answer.py",
        """        if _SECONDS.fullmatch(text):
            wait = timedelta(seconds=min(float(text), RETRY_AFTER_MAX.total_seconds()))
""",
        """        if text and text[-1] in "0123456789f":
            wait = timedelta(seconds=min(float(text), RETRY_AFTER_MAX.total_seconds()))
""",
    ),
    "half a surrogate pair stays": Fault(
        "sqlalchemy_outbox/payload.py",
        'text.encode("utf-8", "backslashreplace").decode().replace("\\0", "\\\\x00")',
        'text.replace("\\0", "\\\\x00")',
    ),
    "an input that is named by none of two is charged": Fault(
        "hubspot_sync/classification.py",
        "    if len(left) == 1 and (len(upserts) == 1 or left[0] not in naming.mentioned | naming.doubted.keys()):\n",
        "    if left:\n",
    ),
    "a redirect's host is read without care": Fault(
        "hubspot_sync/answer.py",
        '        except ValueError:\n            return ""\n',
        '        except KeyError:\n            return ""\n',
    ),
    "a refusal whose body is no JSON is no answer": Fault(
        "hubspot_sync/classification.py",
        "    status, error, summary = answer.status, answer.error(), answer.summary()\n",
        "    status, error, summary = answer.status, answer.error(), answer.summary()\n"
        "    if answer.body is None:\n        return Unavailable(summary)\n",
    ),
}


@pytest.mark.skipif(not LONG, reason="it takes minutes; make soak LONG=1 does it")
@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    backend = tmp_path / "backend"
    shutil.copytree(BACKEND, backend, ignore=shutil.ignore_patterns("__pycache__", "*.db*", ".hypothesis", ".*_cache"))
    source = backend / fault.file
    text = source.read_text()
    assert text.count(fault.right) == 1, f"{fault.file} has {text.count(fault.right)} places that read: {fault.right}"
    source.write_text(text.replace(fault.right, fault.wrong))
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "tests/hubspot/test_any_answer.py"]
    # Found is enough: the smallest example of it would take minutes more.
    environment = os.environ | {"ANY_ANSWER_EXAMPLES": "400"}
    result = subprocess.run(command, cwd=backend, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 1, result.stdout[-3000:]
    assert "FAILED" in result.stdout
