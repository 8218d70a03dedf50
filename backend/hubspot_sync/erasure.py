"""A subject that was forgotten is erased at HubSpot, by record id, and only where the contact is nobody else's.

by our id, and by the record that the last delivery reached ─▶ its contacts ─┐
nobody there: by its addresses, a contact that nobody of ours has ───────────┤
                                                                             ▼
an address that another subject was given since is taken away first ─▶ erased ─▶ read again, and found no more
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

from hubspot_sync.addressing import SECONDARY
from hubspot_sync.answer import Answer, ContactResult
from hubspot_sync.classification import LONG_LOCK_WAIT
from hubspot_sync.client import HubSpotClient
from hubspot_sync.event import Catalog, UnreadableEvent
from hubspot_sync.forgetting import ADDRESSES, WAY, fact
from hubspot_sync.moves import Move, MoveType, said_by
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.enqueueing.forgetting import ErasureWay
from sqlalchemy_outbox.lease import Lease
from sqlalchemy_outbox.model import Event
from sqlalchemy_outbox.outcome import Delivered, FollowUp, Outcome, Postponed, Rejected, Retry
from sqlalchemy_outbox.settling.deliveries import Delivery

ERASE, ARCHIVE = "contacts/gdpr-delete", "contacts/batch/archive"

Ask = Callable[[Event, Lease, Callable[[], Awaitable[Answer]]], Awaitable[Answer | Retry | Postponed]]
"""Make a request about one subject alone; or what becomes of its event where no answer came."""


class ContactErasures:
    """Erases contacts. `ask` makes each request in a slot of its own."""

    def __init__(self, client: HubSpotClient, catalog: Catalog, ask: Ask) -> None:
        self._client = client
        self._catalog = catalog
        self._ask = ask

    async def erase(self, event: Event, claim: Claim) -> Outcome:
        """Erase the event's subject. GateShut and LeaseEnding may be raised, and then nothing is lost by a repeat."""
        try:
            return await _Erasure(event, claim, self._client, self._catalog, self._ask).carry_out()
        except _Ended as ended:
            return ended.outcome


class _Ended(Exception):
    """HubSpot did not do what was asked; `outcome` is the event's."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class _Contact:
    """All of it is raw."""

    record_id: str
    our_id: str
    address: str = field(repr=False)
    secondary: tuple[str, ...] = field(repr=False)

    @property
    def addresses(self) -> list[str]:
        return [address for address in (self.address, *self.secondary) if address]


@dataclass(slots=True)
class _Erasure:
    event: Event
    claim: Claim
    client: HubSpotClient
    catalog: Catalog
    ask_for_one: Ask
    # Contacts that hold something of the subject, and are another's.
    left: set[str] = field(default_factory=set)
    requests: list[dict[str, object]] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    then: list[FollowUp] = field(default_factory=list)

    async def carry_out(self) -> Delivered:
        known = await self.claim.known(self.event)
        way = ErasureWay(fact(known.facts, WAY, str) or ErasureWay.ERASE)
        record_id = None if known.place is None else known.place.record_id
        addresses: Mapping[str, int] = fact(known.facts, ADDRESSES, dict)
        contacts = await self._find(record_id, list(addresses))
        for contact in contacts:
            self.words |= {contact.record_id, *contact.addresses}
            if way is ErasureWay.ERASE:
                await self._leave_to_others(contact, addresses)
            await self._erase(contact.record_id, way)
        if contacts:
            await self._confirm([contact.record_id for contact in contacts])
        if record_id is not None:
            self.words.add(record_id)
        told = {"way": way.value, "contacts": len(contacts), "left": len(self.left), "requests": self.requests}
        if self.event.in_doubt_at is not None:
            # What was not found may be what an earlier request has erased.
            told["repeated"] = True
        return Delivered(then=tuple(self.then), told=told, words=tuple(self.words))

    async def _find(self, record_id: str | None, addresses: Sequence[str]) -> list[_Contact]:
        """The subject's contacts; that of its last delivery also where it is archived."""
        found = await self._read(self.catalog.key.name, [self.event.subject])
        if record_id is not None:
            found |= await self._read(None, [record_id])
            if not found:
                found |= await self._read(None, [record_id], is_archived=True)
        mine = {id_: contact for id_, contact in found.items() if self._is_mine(contact)}
        if not mine and addresses:
            found |= await self._read(self.catalog.email.name, addresses)
            mine = {id_: contact for id_, contact in found.items() if self._is_mine(contact)}
        self.left |= found.keys() - mine.keys()
        return list(mine.values())

    def _is_mine(self, contact: _Contact) -> bool:
        return not contact.our_id or contact.our_id.casefold() == self.event.subject.casefold()

    async def _leave_to_others(self, contact: _Contact, addresses: Mapping[str, int]) -> None:
        """An address that another subject has been given since is hers: HubSpot would take it from nobody any more."""
        given = await self._given(contact, addresses)
        if not given:
            return
        if contact.address in given and contact.our_id:
            key, email = self.catalog.key.name, self.catalog.email.name
            properties = {key: contact.our_id, email: ""}
            release = {"id": contact.our_id, "idProperty": key, "properties": properties}
            await self._ask(partial(self.client.upsert_contacts, [release], contact.addresses))
            found = await self._read(None, [contact.record_id])
            contact = found.get(contact.record_id, contact)
        if taken := given.keys() & set(contact.addresses):
            claimants = ", ".join(sorted({given[address].claimant for address in taken}))
            raise _Ended(
                Rejected(
                    f"the contact has an address that was given to {claimants} since, and HubSpot does not let it go: "
                    "take it away there, then retry this event"
                )
            )
        self.then += [move.follow_up(self.catalog) for move in given.values()]

    async def _given(self, contact: _Contact, addresses: Mapping[str, int]) -> dict[str, Move]:
        """Those of its addresses that others were given last, each as the move that gives it to its new owner."""
        given: dict[str, Move] = {}
        email = self.catalog.email.name
        for event in await self.claim.mentions(self.event, contact.addresses):
            try:
                address, move = said_by(event, self.catalog).get(email), Move.of(event, self.catalog)
            except UnreadableEvent:
                continue
            claimed_by = event.id if move is None else move.claimed_by
            if address in contact.addresses and claimed_by > addresses.get(address, 0):
                given[address] = Move(MoveType.GRANT, event.subject, address, claimed_by, event.subject)
        return given

    async def _erase(self, record_id: str, way: ErasureWay) -> None:
        call = self.client.erase_contact if way is ErasureWay.ERASE else self.client.archive_contact
        began_at = time.monotonic()
        note = partial(self._note, ERASE if way is ErasureWay.ERASE else ARCHIVE, began_at)
        try:
            answer = await self._ask(partial(call, record_id, [record_id, self.event.subject]))
        except _Ended as ended:
            note("no answer", None)
            if isinstance(ended.outcome, Retry | Postponed):
                raise _Ended(replace(ended.outcome, is_in_doubt=True)) from None
            raise
        if answer.is_success:
            note("erased", answer)
        elif answer.status == 404:
            note("gone already", answer)
        else:
            note("refused", answer)
            raise _Ended(_outcome_of(answer))
        self.requests.append({"status": answer.status, "correlation_id": answer.correlation_id or None})

    def _note(self, endpoint: str, began_at: float, words: str, answer: Answer | None) -> None:
        duration = timedelta(seconds=time.monotonic() - began_at)
        delivery = Delivery(endpoint, began_at, duration, words, {self.event.id: words})
        if answer is not None:
            delivery = replace(
                delivery,
                status=answer.status,
                category=answer.category,
                correlation_id=answer.correlation_id or None,
                error=None if answer.is_success else answer.summary(),
            )
        self.claim.note(delivery)

    async def _confirm(self, record_ids: Sequence[str]) -> None:
        found = await self._read(self.catalog.key.name, [self.event.subject]) | await self._read(None, record_ids)
        # A record that is known still, and says nothing of anybody, is as good as none.
        if any(self._is_mine(contact) and (contact.our_id or contact.addresses) for contact in found.values()):
            raise _Ended(Retry("HubSpot still shows the contact, though it said that it is erased"))

    async def _read(
        self, key_property: str | None, keys: Sequence[str], *, is_archived: bool = False
    ) -> dict[str, _Contact]:
        wanted = [self.catalog.key.name, self.catalog.email.name, SECONDARY]
        read = partial(self.client.read_contacts, key_property, keys, wanted, is_archived=is_archived)
        answer = await self._ask(read)
        body = answer.batch() if answer.is_success else None
        if body is None:
            raise _Ended(Retry(f"HubSpot does not show whether the contact is there: {answer.summary()}"))
        return {contact.record_id: contact for contact in map(self._as_contact, body.results)}

    def _as_contact(self, result: ContactResult) -> _Contact:
        texts = {name: _text(result.properties.get(name)) for name in (self.catalog.key.name, self.catalog.email.name)}
        secondary = [it.strip().lower() for it in _text(result.properties.get(SECONDARY)).split(";") if it.strip()]
        return _Contact(
            result.raw_id, texts[self.catalog.key.name], texts[self.catalog.email.name].lower(), tuple(secondary)
        )

    async def _ask(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        answer = await self.ask_for_one(self.event, self.claim.lease, call)
        if not isinstance(answer, Answer):
            raise _Ended(answer)
        return answer


def _outcome_of(answer: Answer) -> Outcome:
    """Of an erasure that HubSpot refused; a person reads why, and can have it tried again."""
    if answer.status == 423:
        return Postponed(answer.summary(), LONG_LOCK_WAIT)
    if answer.status == 409:
        return Retry(answer.summary())
    correlation = f" (correlation id {answer.correlation_id})" if answer.correlation_id else ""
    return Rejected(
        f"HubSpot does not erase the contact: {answer.summary()}{correlation}. Allow it in the account (privacy "
        "settings, the token's scopes), or delete the contact there for good; then retry this event"
    )


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
