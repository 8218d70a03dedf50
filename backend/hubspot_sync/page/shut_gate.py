"""What a shut gate means to an operator: the remedy comes first, and each state has words of its own. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hubspot_sync.entries import Entry
from hubspot_sync.page.notice import Act, Level, Notice
from hubspot_sync.poison_detection import ONE_CONTACT
from sqlalchemy_outbox.gate.row import GateStatus
from sqlalchemy_outbox.model import GateState

_NEXT_TRY = "tried again"
_MIDNIGHT = "the account's midnight"
_ANSWERED = re.compile(r"HubSpot answered (\d{3})")
_SCOPES = re.compile(r"Grant the token (.{1,300}?)\.(?:\s|$)")


def about_gate(gate: GateStatus) -> Iterator[Notice]:
    reason = gate.reason or ""
    match gate.state:
        case GateState.OPEN:
            return
        case GateState.HELD if gate.held_by is not None:
            yield _held_by_a_person(gate, gate.held_by)
        case GateState.HELD:
            yield _held(gate, reason)
        case GateState.THROTTLED if reason.startswith("outage"):
            yield _outage(gate, reason)
        case GateState.THROTTLED if "HUBSPOT_DAILY_RESERVE" in reason or "daily" in reason.lower():
            yield _day_is_used_up(gate, reason)
        case GateState.THROTTLED:
            yield Notice(
                Level.WARNING,
                "Deliveries are throttled",
                f"HubSpot asks for fewer requests: {reason}",
                "They go on by themselves. If it comes again and again, lower HUBSPOT_REQUESTS_PER_SECOND.",
                (Act.TRY_NOW,),
                gate.since,
                gate.until,
                "goes on",
                costs=True,
                entry=Entry.THROTTLED,
            )


def _held_by_a_person(gate: GateStatus, held_by: str) -> Notice:
    return Notice(
        Level.WARNING,
        f"{held_by.partition(':')[2] or held_by} holds deliveries",
        gate.reason or "",
        "Release them once that is over: nothing else lets them go on. No event loses an attempt.",
        (Act.RELEASE,),
        gate.since,
        costs=True,
        entry=Entry.LEFT_ALONE,
    )


def _held(gate: GateStatus, reason: str) -> Notice:
    """Only a person can mend it."""
    what, remedy, acts = _cause(reason)
    title = f"Deliveries are held: {what}" if what else "Deliveries are held"
    return Notice(
        Level.BAD,
        title,
        reason,
        remedy,
        (Act.TRY_NOW, *acts),
        gate.since,
        gate.until,
        _NEXT_TRY,
        costs=True,
        entry=Entry.HELD,
    )


def _cause(reason: str) -> tuple[str, str, tuple[Act, ...]]:
    """What the reason of a hold comes to, what to do, and what helps with it."""
    if "HUBSPOT_PRIVATE_APP_TOKEN is not accepted" in reason:
        remedy = "Set HUBSPOT_PRIVATE_APP_TOKEN to a valid key and restart the workers."
        return "HubSpot does not accept the token", remedy, (Act.DOCTOR,)
    if (scopes := _SCOPES.search(reason)) is not None:
        return "the token lacks scopes", f"Grant the token {scopes[1]} in HubSpot.", (Act.DOCTOR,)
    if "the token belongs to portal" in reason:
        remedy = "Set the token or HUBSPOT_PORTAL_ID to what is meant, and restart the workers."
        return "the token is another account's", remedy, (Act.DOCTOR,)
    if "`provision`" in reason or "`provision --plan`" in reason:
        return "the account lacks what every event needs", "Provision the account.", (Act.PROVISION, Act.DOCTOR)
    if "HUBSPOT_BASE_URL" in reason:
        return "HubSpot is not where it is looked for", "Check HUBSPOT_BASE_URL and HUBSPOT_API_VERSION.", (Act.DOCTOR,)
    return "", "Mend what the words below say; it is tried every 60 s.", (Act.DOCTOR,)


def _outage(gate: GateStatus, reason: str) -> Notice:
    """It is probed, at most a minute apart."""
    words = reason.removeprefix("outage").lstrip(": ")
    if ONE_CONTACT in reason:
        title = "One contact's requests get no answer"
        remedy = "Look at that contact in HubSpot. Whether HubSpot answers others shows with the next event of another."
    elif (answered := _ANSWERED.search(reason)) is not None:
        title = f"HubSpot answers with errors ({answered[1]})"
        remedy = "Nothing to do here: see status.hubspot.com. It goes on with the first answer; no attempt is lost."
    else:
        title = "HubSpot does not answer"
        remedy = "Check the network's way to HubSpot, and status.hubspot.com. It goes on with the first answer."
    acts = (Act.TRY_NOW, Act.DOCTOR)
    shut = (gate.since, gate.until, _NEXT_TRY)
    return Notice(Level.WARNING, title, words, remedy, acts, *shut, costs=True, entry=Entry.THROTTLED)


def _day_is_used_up(gate: GateStatus, reason: str) -> Notice:
    """All integrations share the account's day; the rate has no part in it."""
    is_reserve = "HUBSPOT_DAILY_RESERVE" in reason
    remedy = "Find out which integration uses them up" + (
        "; or lower HUBSPOT_DAILY_RESERVE and restart." if is_reserve else ", and let it use fewer."
    )
    title = (
        "The day's requests are down to the reserve" if is_reserve else "The account's requests for today are used up"
    )
    acts = (Act.TRY_NOW, Act.DOCTOR)
    shut = (gate.since, gate.until, _MIDNIGHT)
    return Notice(Level.WARNING, title, reason, remedy, acts, *shut, costs=True, entry=Entry.DAY)
