"""`make soak` plants faults by their texts, most of them only with LONG=1; here none is left behind by a change."""

from __future__ import annotations

import pytest

from tests.conftest import BACKEND
from tests.soak import test_planted_answers, test_planted_faults


@pytest.mark.parametrize("name", test_planted_faults.FAULTS)
def test_fault_to_be_planted_into_the_outbox_finds_its_text(name: str) -> None:
    fault = test_planted_faults.FAULTS[name]
    text = (BACKEND / "sqlalchemy_outbox" / fault.file).read_text()
    for right, wrong in [(fault.right, fault.wrong), *([fault.also] if fault.also else [])]:
        assert text.count(right) == 1
        text = text.replace(right, wrong)


@pytest.mark.parametrize("name", test_planted_answers.FAULTS)
def test_fault_to_be_planted_into_the_delivery_finds_its_text(name: str) -> None:
    fault = test_planted_answers.FAULTS[name]
    assert (BACKEND / fault.file).read_text().count(fault.right) == 1
