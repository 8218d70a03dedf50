"""What is looked at before an upsert is sent: who has the address that it wants, and whether a move is still due."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from hubspot_sync.answer import BatchBody
from hubspot_sync.event import Catalog, UnreadableEvent
from hubspot_sync.identity import Holder
from hubspot_sync.moves import Move, MoveType, said_by
from hubspot_sync.translation import INPUTS_MAX, ContactUpsert, Contribution
from outbox.destination import Claim
from outbox.newer import Standing

_SECONDARY = "hs_additional_emails"

Read = Callable[[str, Sequence[str], Sequence[str]], Awaitable[BatchBody]]
"""Read contacts: the unique property, its values, and the properties that are wanted of each."""


async def holders(read: Read, catalog: Catalog, addresses: Iterable[str]) -> dict[str, Holder]:
    """The contact that each of these addresses leads to, its secondary addresses included; not all lead anywhere."""
    found: dict[str, Holder] = {}
    wanted = [catalog.key.name, catalog.email.name, _SECONDARY]
    for some in _in_batches(addresses):
        body = await read(catalog.email.name, some, wanted)
        for result in body.results:
            texts = {name: _text(result.properties.get(name)) for name in wanted}
            holder = Holder(result.raw_id, texts[catalog.key.name], texts[catalog.email.name].lower())
            secondary = [address.strip().lower() for address in texts[_SECONDARY].split(";")]
            found |= {address: holder for address in (holder.address, *secondary) if address in some}
    return found


async def judge_moves(upserts: Sequence[ContactUpsert], claim: Claim, read: Read) -> list[ContactUpsert]:
    """The upserts without moves that something newer has overtaken, and with what the others leave to be done."""
    judged = [await _judge_claims(upsert, claim) for upsert in upserts]
    taking = [upsert for upsert in judged if any(_takes_away(said, upsert.catalog) for said in upsert.contributions)]
    if not taking:
        return judged
    present = await _present_addresses(read, taking)
    return [_judge_releases(upsert, present.get(upsert.subject.casefold(), "")) for upsert in judged]


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


async def _present_addresses(read: Read, upserts: Sequence[ContactUpsert]) -> dict[str, str]:
    """The primary address that each subject's contact has now, by the subject."""
    catalog = upserts[0].catalog
    found: dict[str, str] = {}
    for some in _in_batches(upsert.subject for upsert in upserts):
        body = await read(catalog.key.name, some, [catalog.key.name, catalog.email.name])
        for result in body.results:
            subject = _text(result.properties.get(catalog.key.name)).casefold()
            found[subject] = _text(result.properties.get(catalog.email.name)).lower()
    return found


def _judge_releases(upsert: ContactUpsert, present: str) -> ContactUpsert:
    """An address that the contact has no more needs no release."""
    for contribution in upsert.contributions:
        move = contribution.move
        if move is not None and _takes_away(contribution, upsert.catalog) and move.address != present:
            upsert = upsert.replacing(contribution.without({upsert.catalog.email.name}))
    return upsert


def _in_batches(keys: Iterable[str]) -> Iterable[list[str]]:
    distinct = list(dict.fromkeys(keys))
    return (distinct[start : start + INPUTS_MAX] for start in range(0, len(distinct), INPUTS_MAX))


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
