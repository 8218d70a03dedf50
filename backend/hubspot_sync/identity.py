"""Which contact an upsert is about when another one is in the way. Decided from HubSpot's answers, never by a search.

An upsert is addressed by our id, so that it can take over nobody's contact. If another contact has its email, that one
is looked at:

nobody of ours has it, a marketer's say ─▶ the same by email: the contact gets our id. If our id is on another contact
                                           already, a person must merge the two
it is the subject's own, by a secondary address ─▶ the same without `email`
it is another subject's ─▶ the same without `email`, which moves by itself (see `moves`). If its id is none that we
                           can have given, a person must look at it
nobody has it any more  ─▶ once more, after a concurrent write has settled
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hubspot_sync.answer import NAME_CHARS_MAX
from hubspot_sync.classification import Contested
from hubspot_sync.moves import TRIES_MAX, Move, MoveType
from hubspot_sync.redaction import redact
from hubspot_sync.translation import ContactUpsert
from sqlalchemy_outbox.enqueueing.enqueue import SUBJECT_CHARS_MAX
from sqlalchemy_outbox.outcome import Rejected
from sqlalchemy_outbox.payload import storable

# So often another contact may be in the way, each time after a look or a wait.
_CONFLICTS_MAX = 2


@dataclass(frozen=True, slots=True)
class Holder:
    """The contact that an address leads to: our id on it, empty where it has none, and its primary address."""

    record_id: str
    our_id: str
    address: str = field(repr=False)

    @property
    def can_be_ours(self) -> bool:
        """Whether a subject of ours can have this id."""
        return 0 < len(self.our_id) <= SUBJECT_CHARS_MAX and storable(self.our_id) == self.our_id

    @property
    def words(self) -> str:
        """The contact, and whose it is, as may be kept and shown."""
        return f"contact {self.record_id}, which is {redact.shown(self.our_id, NAME_CHARS_MAX)}'s"


def resolve(upsert: ContactUpsert, contested: Contested) -> ContactUpsert | Rejected:
    """Return the upsert to send next in place of this one, or to look at first, or why a person must look at it."""
    our_id, email = upsert.catalog.key.name, upsert.catalog.email.name
    is_by_email = upsert.key_property == email
    met = replace(upsert, conflicts=upsert.conflicts + 1, contested=None, is_waiting=False)
    if is_by_email and contested.property == our_id:
        return _two_contacts(met, contested)
    if met.conflicts > _CONFLICTS_MAX:
        return Rejected(contested.reason)
    is_of_email = contested.property == email or (contested.property is None and contested.holder is not None)
    has_waited = upsert.conflicts > 0
    if not is_by_email and upsert.email and (is_of_email or has_waited):
        return replace(met, contested=contested)
    if not has_waited:
        return replace(met, is_waiting=True)
    if is_by_email:
        return met.by_our_id()
    return Rejected(contested.reason)


def give_way(upsert: ContactUpsert, holder: Holder | None) -> ContactUpsert | Rejected:
    """What comes of a contested upsert, now that the contact which its email leads to is known."""
    if upsert.contested is None or upsert.email is None:
        return upsert
    if holder is None:
        return replace(upsert, contested=None, is_waiting=upsert.conflicts > 0)
    if not holder.our_id:
        found = replace(upsert.by_email(), contested=None, holder_of_email=holder.record_id)
        return found if holder.address == upsert.email else found.without_email()
    if holder.our_id.casefold() == upsert.subject.casefold():
        return upsert.without_email()
    return _leave_it_to_moves(upsert, upsert.email, holder)


def _leave_it_to_moves(upsert: ContactUpsert, address: str, holder: Holder) -> ContactUpsert | Rejected:
    claim = upsert.claim_of_email()
    granted = claim.move
    claimed_by = claim.event.id if granted is None else granted.claimed_by
    tries = 0 if granted is None else granted.tries
    if granted is not None and not holder.can_be_ours:
        return Rejected(
            f"the address that {upsert.subject} has claimed is that of contact {holder.record_id}, whose "
            f"{upsert.catalog.key.name} no subject of ours can have: correct it there, then retry this event"
        )
    if granted is not None and holder.address != address:
        return Rejected(
            f"the address that {upsert.subject} has claimed is a secondary one of {holder.words}; HubSpot lets nobody "
            "but a person take it away: do so there, then retry this event"
        )
    if tries >= TRIES_MAX:
        return Rejected(
            f"the address that {upsert.subject} has claimed stays with {holder.words}, though HubSpot was told to "
            "release it: take it away there, then retry this event"
        )
    if holder.address == address and holder.can_be_ours:
        move = Move(MoveType.RELEASE, holder.our_id, address, claimed_by, upsert.subject, tries + 1)
    else:
        move = Move(MoveType.GRANT, upsert.subject, address, claimed_by, upsert.subject, tries)
    return upsert.without_email().leaving(move)


def _two_contacts(met: ContactUpsert, contested: Contested) -> Rejected:
    here = f"contact {contested.holder}" if contested.holder else "one contact"
    there = f"contact {met.holder_of_email}" if met.holder_of_email else "another"
    return Rejected(
        f"{met.catalog.key.name} {met.subject} is on {here}, and the event's email on {there}, which has no such id: "
        "merge them in HubSpot, then retry this event."
    )
