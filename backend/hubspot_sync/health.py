"""How an integration is, as far as everybody may know: why its gate is shut has operators' and HubSpot's words."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from hubspot_sync.integration import Integration
from sqlalchemy_outbox.enqueueing import sequences
from sqlalchemy_outbox.gate.row import read_gate
from sqlalchemy_outbox.model import GateState


@dataclass(frozen=True, slots=True)
class Health:
    """`missing`: which migration the database lacks, in words; the rest is then not known.

    `until`: when a gate that is shut by itself is looked at again. `behind`: sequences that lie behind their ids, as
    after a restore.
    """

    missing: str | None = None
    gate: GateState = GateState.OPEN
    until: datetime | None = None
    behind: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        until = None if self.until is None else self.until.isoformat()
        return {"gate": {"state": self.gate.value, "until": until}, "behind": self.behind}


def read_health(integration: Integration) -> Health:
    """Look into the database. Raises SQLAlchemy's DBAPIError or TimeoutError where it does not serve."""
    with integration.engine.connect() as connection:
        if (missing := integration.missing_in(connection)) is not None:
            return Health(missing)
        gate = read_gate(connection, integration.outbox)
        behind = [str(found) for found in sequences.behind(connection, integration.outbox)]
    return Health(None, gate.state, gate.until, behind)
