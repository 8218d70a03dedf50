"""The properties that the suite tries for seconds, for longer: with LONG=1 for minutes each."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.soak.test_planted_faults import BACKEND

# How many examples of each are played, and how many times as many where there is time.
FACTOR = int(os.environ.get("PROPERTY_FACTOR", "1"))
PROPERTIES = {
    "tests/hubspot/test_any_answer.py": ("ANY_ANSWER_EXAMPLES", 60),
    "tests/hubspot/test_reads.py": ("ANY_ANSWER_EXAMPLES", 60),
    "tests/hubspot/test_json_text.py": ("JSON_TEXT_EXAMPLES", 1000),
    "tests/hubspot/test_plain_payload.py": ("PLAIN_PAYLOAD_EXAMPLES", 1000),
    "tests/hubspot/test_never_backwards.py": ("STATE_MACHINE_EXAMPLES", 30),
    "tests/hubspot/test_addresses.py": ("ADDRESS_EXAMPLES", 15),
    "tests/hubspot/test_command_line_fuzz.py": ("EVERY_VALUE", 1),
    "tests/outbox/test_every_program.py": ("PROGRAM_EXAMPLES", 60),
    "tests/outbox/test_one_behaviour.py": ("STATE_MACHINE_EXAMPLES", 30),
}


@pytest.mark.parametrize("file", PROPERTIES)
def test_property_holds_for_longer(file: str) -> None:
    variable, examples = PROPERTIES[file]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", file]
    environment = os.environ | {variable: str(examples * FACTOR)}
    result = subprocess.run(command, cwd=BACKEND, env=environment, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stdout[-3000:]
