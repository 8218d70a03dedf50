"""How state machines of Hypothesis are run here: from random seeds, kept nowhere, as long as it takes."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run_state_machine(machine: type[RuleBasedStateMachine], *, examples: int, steps: int, variable: str) -> None:
    """`variable` of the environment says another number of examples; then a failure is shown without being shrunk."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=int(os.environ.get(variable, examples)),
            stateful_step_count=steps,
            phases=[Phase.generate] if variable in os.environ else list(Phase),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
