"""A transactional outbox for SQLAlchemy: an event exists if and only if the transaction that enqueued it commits.

    enqueue ─▶ outbox table ─▶ Worker ─▶ your destination ─▶ outcomes
               (define_outbox)   (each subject's events in order, at least once)

These names are the library's interface, with the modules `migrations` (the tables as numbered steps), `operations`
(what a person may see and do) and `testing`.
What lies in the packages beneath may change with any version.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy_outbox.database.engines import DriverMissing, Pooler, listen_engine, worker_engine
    from sqlalchemy_outbox.database.sqlite import configure_engine
    from sqlalchemy_outbox.database.urls import checked_url
    from sqlalchemy_outbox.delivering.worker import Worker
    from sqlalchemy_outbox.destination import Claim, Deliver
    from sqlalchemy_outbox.enqueueing.enqueue import enqueue
    from sqlalchemy_outbox.gate.gate import Gate, GateShut, LeaseEnding
    from sqlalchemy_outbox.lease import Lease
    from sqlalchemy_outbox.model import Event, GateState, Outbox, State, define_outbox
    from sqlalchemy_outbox.outcome import Delivered, FollowUp, Outcome, Postponed, Rejected, Retry, Waiting

__all__ = [
    "Claim",
    "Deliver",
    "Delivered",
    "DriverMissing",
    "Event",
    "FollowUp",
    "Gate",
    "GateShut",
    "GateState",
    "Lease",
    "LeaseEnding",
    "Outbox",
    "Outcome",
    "Pooler",
    "Postponed",
    "Rejected",
    "Retry",
    "State",
    "Waiting",
    "Worker",
    "checked_url",
    "configure_engine",
    "define_outbox",
    "enqueue",
    "listen_engine",
    "worker_engine",
]

# A module is imported when a name of it is first asked for: who only reads the table loads neither worker nor metrics.
_MODULE_OF = {
    "Claim": "destination",
    "Deliver": "destination",
    "Delivered": "outcome",
    "DriverMissing": "database.engines",
    "Event": "model",
    "FollowUp": "outcome",
    "Gate": "gate.gate",
    "GateShut": "gate.gate",
    "GateState": "model",
    "Lease": "lease",
    "LeaseEnding": "gate.gate",
    "Outbox": "model",
    "Outcome": "outcome",
    "Pooler": "database.engines",
    "Postponed": "outcome",
    "Rejected": "outcome",
    "Retry": "outcome",
    "State": "model",
    "Waiting": "outcome",
    "Worker": "delivering.worker",
    "checked_url": "database.urls",
    "configure_engine": "database.sqlite",
    "define_outbox": "model",
    "enqueue": "enqueueing.enqueue",
    "listen_engine": "database.engines",
    "worker_engine": "database.engines",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return found


def __dir__() -> list[str]:
    return __all__
