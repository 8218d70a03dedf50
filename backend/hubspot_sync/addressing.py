"""What is looked at before an upsert is sent: who has the address that it wants, and whether a move is still due."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hubspot_sync.answer import NAME_CHARS_MAX, ContactResult
from hubspot_sync.event import Catalog, UnreadableEvent
from hubspot_sync.identity import Holder
from hubspot_sync.moves import Move, MoveType, said_by
from hubspot_sync.redaction import redact
from hubspot_sync.translation import ContactUpsert, Contribution
from sqlalchemy_outbox.claiming.newer import Standing
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.outcome import Postponed, Retry

SECONDARY = "hs_additional_emails"


@dataclass(frozen=True, slots=True)
class Found:
    """What a read has found; `unread` says by their subjects what becomes of upserts whose contact was not shown."""

    results: Sequence[ContactResult] = field(default=(), repr=False)
    unread: Mapping[str, Retry | Postponed] = field(default_factory=dict)

    def and_also(self, other: Found) -> Found:
        return Found([*self.results, *other.results], {**self.unread, **other.unread})


Read = Callable[[str, Sequence[ContactUpsert], Sequence[str]], Awaitable[Found]]
"""Read the contacts that the upserts' values of a unique property lead to, and the properties wanted of each."""


async def holders(
    read: Read, upserts: Sequence[ContactUpsert]
) -> tuple[dict[str, Holder], Mapping[str, Retry | Postponed]]:
    """The contact that each upsert's address leads to, be it a secondary one of it; not all lead anywhere.

    And what becomes of those whose address HubSpot says nothing of.
    """
    catalog = upserts[0].catalog
    wanted = [catalog.key.name, catalog.email.name, SECONDARY]
    addresses = {upsert.email for upsert in upserts}
    read_of_all = await read(catalog.email.name, upserts, wanted)
    found: dict[str, Holder] = {}
    for result in read_of_all.results:
        texts = {name: _text(result.properties.get(name)) for name in wanted}
        record_id = redact.shown(result.raw_id, NAME_CHARS_MAX)
        holder = Holder(record_id, texts[catalog.key.name], texts[catalog.email.name].lower())
        secondary = [address.strip().lower() for address in texts[SECONDARY].split(";")]
        found |= {address: holder for address in (holder.address, *secondary) if address in addresses}
    return found, read_of_all.unread


async def judge_moves(
    upserts: Sequence[ContactUpsert], claim: Claim, read: Read
) -> list[ContactUpsert | Retry | Postponed]:
    """The upserts without moves that something newer has overtaken, and with what the others leave to be done.

    Or what becomes of one whose contact has to be looked at, and is not shown.
    """
    judged = [await _judge_claims(upsert, claim) for upsert in upserts]
    taking = [upsert for upsert in judged if any(_takes_away(said, upsert.catalog) for said in upsert.contributions)]
    if not taking:
        return [*judged]
    present, unread = await _present_addresses(read, taking)
    return [
        unread.get(upsert.subject) or _judge_releases(upsert, present.get(upsert.subject.casefold(), ""))
        for upsert in judged
    ]


async def _judge_claims(upsert: ContactUpsert, claim: Claim) -> ContactUpsert:
    for contribution in upsert.contributions:
        if (move := contribution.move) is not None and contribution.is_carried:
            claims = [*_claims_beside(upsert, contribution), *await _newer_claim(upsert, contribution, move, claim)]
            newest_id, newest = max(claims, default=(move.claimed_by, ""))
            since = newest if newest_id > move.claimed_by else None
            upsert = _judged(upsert, contribution, move, since)
    return upsert


def _judged(upsert: ContactUpsert, contribution: Contribution, move: Move, newest: str | None) -> ContactUpsert:
    """What is left of a move, where `newest` is the address that its subject has claimed since, if any."""
    email = upsert.catalog.email.name
    if newest == move.address or (newest is not None and move.type is MoveType.GRANT):
        return upsert.replacing(contribution.without({email}))
    if move.type is MoveType.GRANT:
        return upsert
    # The older claim that goes with it is the one that has been lost.
    for other in upsert.contributions:
        if other.properties.get(email) == move.address:
            upsert = upsert.replacing(other.without({email}))
    return upsert.replacing(replace(contribution, then=(move.granted(),)))


def _claims_beside(upsert: ContactUpsert, contribution: Contribution) -> list[tuple[int, str]]:
    """The addresses that the upsert's other events give the contact, each with the id of the event that claimed it."""
    return [
        (_claim_id(other), address)
        for other in upsert.contributions
        if other.event.id != contribution.event.id
        if (address := other.properties.get(upsert.catalog.email.name))
    ]


async def _newer_claim(
    upsert: ContactUpsert, contribution: Contribution, move: Move, claim: Claim
) -> list[tuple[int, str]]:
    """The same of events that are not in the upsert and may stand already: the newest one, if there is any."""
    email = upsert.catalog.email.name
    async for newer in claim.newer(contribution.event._replace(id=move.claimed_by)):
        if newer.standing is Standing.WAITING:
            continue
        try:
            said, other = said_by(newer.event, upsert.catalog), Move.of(newer.event, upsert.catalog)
        except UnreadableEvent:
            continue
        # A move claims nothing by itself: it is about an event that did.
        if email in said and (other is None or other.claimed_by > move.claimed_by) and not _is_release(other):
            return [(newer.event.id, said[email] or "")]
    return []


def _is_release(move: Move | None) -> bool:
    return move is not None and move.type is MoveType.RELEASE


def _claim_id(contribution: Contribution) -> int:
    return contribution.event.id if contribution.move is None else contribution.move.claimed_by


def _takes_away(contribution: Contribution, catalog: Catalog) -> bool:
    return contribution.properties.get(catalog.email.name) == ""


async def _present_addresses(
    read: Read, upserts: Sequence[ContactUpsert]
) -> tuple[dict[str, str], Mapping[str, Retry | Postponed]]:
    """The primary address that each subject's contact has now, by the subject."""
    catalog = upserts[0].catalog
    read_of_all = await read(catalog.key.name, upserts, [catalog.key.name, catalog.email.name])
    found: dict[str, str] = {}
    for result in read_of_all.results:
        subject = _text(result.properties.get(catalog.key.name)).casefold()
        found[subject] = _text(result.properties.get(catalog.email.name)).lower()
    return found, read_of_all.unread


def _judge_releases(upsert: ContactUpsert, present: str) -> ContactUpsert:
    """An address that the contact has no more needs no release."""
    for contribution in upsert.contributions:
        move = contribution.move
        if move is not None and _takes_away(contribution, upsert.catalog) and move.address != present:
            upsert = upsert.replacing(contribution.without({upsert.catalog.email.name}))
    return upsert


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
