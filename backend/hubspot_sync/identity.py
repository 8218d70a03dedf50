"""Which contact an upsert is about when another one is in the way. Decided from HubSpot's answers, never by a search.

our id on contact A, the email new to HubSpot ─▶ one request to A by our id, the email in its properties
our id on contact A, the email on M           ─▶ failed: a person must merge A and M
the email on a contact that HubSpot names itself, as a secondary address is ─▶ the same request without `email`
a contact of this key is just being created   ─▶ once more, after it has settled
"""

from __future__ import annotations

from dataclasses import replace

from hubspot_sync.classification import Contested
from hubspot_sync.translation import ContactUpsert
from outbox.outcome import Rejected


def resolve(upsert: ContactUpsert, contested: Contested) -> ContactUpsert | Rejected:
    """Return the upsert to send next in place of this one, or why a person must look at it.

    Each way is tried once, so that five requests at most come of one upsert.
    """
    our_id, email = upsert.catalog.key.name, upsert.catalog.email.name
    is_by_email, has_waited = upsert.key_property == email, upsert.conflicts > 0
    met = replace(upsert, conflicts=upsert.conflicts + 1, is_waiting=False)
    if is_by_email and contested.property == our_id:
        return replace(met, holder_of_our_id=contested.holder).by_our_id()
    if not has_waited:
        return replace(met, is_waiting=True)
    if is_by_email and contested.property == email and email in upsert.properties:
        return met.without_email()
    if is_by_email and contested.property is None:
        return met.by_our_id()
    is_named = contested.property == email or (contested.property is None and contested.holder is not None)
    if not is_by_email and is_named and email in upsert.properties:
        return _email_is_of_another(met, contested)
    return Rejected(contested.reason)


def _email_is_of_another(met: ContactUpsert, contested: Contested) -> ContactUpsert | Rejected:
    ours, theirs = met.holder_of_our_id, contested.holder
    if theirs is not None and theirs == ours:
        return met.without_email()
    here = f"contact {ours}" if ours else "one contact"
    there = f"contact {theirs}" if theirs else "another"
    return Rejected(
        f"{met.catalog.key.name} {met.subject} is on {here}, and the event's email on {there}: "
        "merge them in HubSpot, then retry this event."
    )
