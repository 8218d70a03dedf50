"""The audit: what the business tables say must have happened, against the outbox and against HubSpot's contacts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine, func, select

from app.models import OUTBOX
from demo.ledger import KEY, PROPERTIES, Account, EventName, read_ledger
from demo.sandbox import Properties, SandboxAccount
from sqlalchemy_outbox.model import ERASURE, REFUSED

# What an event is about, by type; the other types happen once per driver.
_ABOUT = {
    "wallet_pass_installed": "pass_type",
    "nova_earned": "session_id",
    "nova_redeemed": "redemption_id",
    "first_redemption_completed": "redemption_id",
}


@dataclass(frozen=True, slots=True)
class EventRow:
    """One row of the outbox. `latency` is from the commit to HubSpot's confirmation; None until it is delivered."""

    name: EventName
    latency: timedelta | None
    has_failed: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    driver_id: str
    property: str
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        return f"contact of driver {self.driver_id}: {self.property} is {self.found!r}, must be {self.expected!r}"


@dataclass(frozen=True, slots=True)
class EventFindings:
    """Every expected event is delivered, failed or lost; surplus rows are ones that nothing in the tables explains."""

    expected: int
    delivered: int
    failed: tuple[str, ...]
    lost: tuple[str, ...]
    surplus: tuple[str, ...]
    latencies: tuple[timedelta, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    drivers: int
    unplayed: tuple[str, ...]
    """Acknowledged actions that the tables do not have."""
    inconsistencies: tuple[str, ...]
    events: EventFindings
    differences: tuple[Difference, ...]
    strangers: int
    """Contacts beyond one for each driver."""
    forgotten: int = 0
    """Drivers who deleted their account: HubSpot has confirmed that they are erased."""
    traces: tuple[str, ...] = ()
    """Where something of one of them is left, or their erasure is not done."""

    @property
    def contacts_that_differ(self) -> int:
        return len({it.driver_id for it in self.differences})

    def objections(self) -> Iterator[str]:
        """Everything that is not as it must be, in words; nothing when the audit is passed."""
        yield from self.unplayed
        yield from self.inconsistencies
        yield from (f"failed: {it}" for it in self.events.failed)
        yield from (f"lost: {it}" for it in self.events.lost)
        yield from (f"surplus: {it}" for it in self.events.surplus)
        yield from map(str, self.differences)
        yield from self.traces
        if self.strangers:
            yield f"HubSpot has {self.strangers:+d} contacts compared with one for each driver"


async def take_audit(
    engine: Engine, account: SandboxAccount, played: Mapping[str, int], left: Sequence[str] = ()
) -> Audit:
    """Read both ends and compare them; `played` counts the events that acknowledged actions must have raised.

    `left` are the addresses of those who deleted their account.
    """
    ledger = read_ledger(engine)
    expected_events = [event for it in ledger for event in it.events()]
    contacts = await account.read_contacts(KEY, [it.driver_id for it in ledger], PROPERTIES)
    usage = await account.usage()
    return Audit(
        drivers=len(ledger),
        unplayed=tuple(compare_counts(played, Counter(it.event_type for it in expected_events))),
        inconsistencies=tuple(text for it in ledger for text in it.inconsistencies()),
        events=compare_events(expected_events, read_rows(engine)),
        differences=tuple(compare_contacts(ledger, contacts)),
        strangers=usage.contacts - len(ledger),
        forgotten=count_erased(engine),
        traces=tuple(await find_traces(engine, account, left)),
    )


def count_erased(engine: Engine) -> int:
    e = OUTBOX.erasures.c
    with engine.connect() as connection:
        return connection.execute(select(func.count()).where(e.cleaned_at.is_not(None))).scalar_one()


async def find_traces(engine: Engine, account: SandboxAccount, left: Sequence[str]) -> list[str]:
    """Whatever is left of these addresses: in HubSpot, and in any byte of the database's files."""
    erased = count_erased(engine)
    traces = [] if erased == len(left) else [f"{len(left)} drivers left, and {erased} erasures are done"]
    file = Path(str(engine.url.database))
    for part in file.parent.glob(f"{file.name}*"):
        content = part.read_bytes()
        traces += [f"{address} is left in {part.name}" for address in left if address.encode() in content]
    emails = [address for address in left if "@" in address]
    found = await account.read_contacts("email", emails, [])
    return [*traces, *(f"HubSpot still has a contact of {address}" for address in found)]


def compare_counts(played: Mapping[str, int], stored: Mapping[str, int]) -> Iterator[str]:
    for event_type in sorted({*played, *stored}):
        if played.get(event_type, 0) != stored.get(event_type, 0):
            yield (
                f"the drivers' acknowledged actions make {played.get(event_type, 0)} × {event_type}, "
                f"the business tables {stored.get(event_type, 0)}"
            )


def compare_events(expected: Iterable[EventName], rows: Iterable[EventRow]) -> EventFindings:
    """Join expected events and rows one to one."""
    unmatched: dict[EventName, list[EventRow]] = {}
    for row in rows:
        unmatched.setdefault(row.name, []).append(row)
    delivered: list[timedelta] = []
    failed: list[str] = []
    lost: list[str] = []
    names = list(expected)
    for name in names:
        candidates = unmatched.get(name)
        if not candidates:
            lost.append(f"{name}: the outbox has no row")
            continue
        row = candidates.pop(0)
        if row.has_failed:
            failed.append(f"{name}: {row.error}")
        elif row.latency is None:
            lost.append(f"{name}: its row is not delivered")
        else:
            delivered.append(row.latency)
    surplus = (str(row.name) for some in unmatched.values() for row in some)
    return EventFindings(len(names), len(delivered), tuple(failed), tuple(lost), tuple(surplus), tuple(delivered))


def compare_contacts(ledger: Sequence[Account], contacts: Mapping[str, Properties]) -> Iterator[Difference]:
    """Compare each driver's contact with the tables, property by property."""
    for account in ledger:
        found = contacts.get(account.driver_id)
        if found is None:
            yield Difference(account.driver_id, KEY, account.driver_id, None)
            continue
        for name, value in account.contact().items():
            # HubSpot shows an empty property as null or as an empty text.
            if (found.get(name) or None) != value:
                yield Difference(account.driver_id, name, value, found.get(name))


def read_rows(engine: Engine) -> list[EventRow]:
    c = OUTBOX.events.c
    statement = select(
        *(c.event_type, c.subject, c.payload, c.created_at, c.processed_at, c.failed_at, c.dry_run, c.last_error)
    )
    # Those who were forgotten are in no table that would explain them.
    statement = statement.where(c.event_type != ERASURE, func.coalesce(c.failure_reason, "") != REFUSED).order_by(c.id)
    with engine.connect() as connection:
        rows = connection.execute(statement).all()
    return [
        EventRow(
            name=_name(it.event_type, it.subject, it.payload),
            # A dry run marks events delivered, and none has reached HubSpot.
            latency=it.processed_at - it.created_at if it.processed_at and not it.dry_run else None,
            has_failed=it.failed_at is not None,
            error=it.last_error,
        )
        for it in rows
    ]


def _name(event_type: str, subject: str, payload: str) -> EventName:
    about = _ABOUT.get(event_type)
    return EventName(event_type, subject, str(json.loads(payload).get(about, "")) if about else "")
