"""A transactional outbox for SQLAlchemy: an event exists if and only if the transaction that enqueued it commits.

    enqueue ─▶ outbox table ─▶ Worker ─▶ your destination ─▶ outcomes
               (define_outbox)   (each subject's events in order, at least once)

These names are the library's interface, with the modules `operations` (what a person may see and do) and `testing`.
What lies in the rooms beneath may change with any version.
"""

from sqlalchemy_outbox.database.engines import worker_engine
from sqlalchemy_outbox.database.sqlite import configure_engine
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.destination import Claim, Deliver
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.gate.gate import Gate, GateShut, LeaseEnding
from sqlalchemy_outbox.lease import Lease
from sqlalchemy_outbox.model import Event, GateState, Outbox, State, define_outbox
from sqlalchemy_outbox.operating import operations
from sqlalchemy_outbox.outcome import Delivered, FollowUp, Outcome, Postponed, Rejected, Retry, Waiting

__all__ = [
    "Claim",
    "Deliver",
    "Delivered",
    "Event",
    "FollowUp",
    "Gate",
    "GateShut",
    "GateState",
    "Lease",
    "LeaseEnding",
    "Outbox",
    "Outcome",
    "Postponed",
    "Rejected",
    "Retry",
    "State",
    "Waiting",
    "Worker",
    "configure_engine",
    "define_outbox",
    "enqueue",
    "operations",
    "worker_engine",
]
