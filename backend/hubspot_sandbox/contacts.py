"""The contacts of the account and the indexes that find them: pure state, no HTTP.

Every lookup is one dictionary access, so that a hundred thousand stored contacts cost no more than ten.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

from hubspot_sandbox.properties import ContactSchema
from hubspot_sandbox.search_index import SearchIndex
from hubspot_sandbox.switches import Switches
from hubspot_sandbox.values import email_key
from hubspot_sandbox.wire import JsonObject, iso

# Real record ids are long and nobody's own counter; a client that mistakes its ids for HubSpot's finds nothing.
FIRST_CONTACT_ID = 80_000_000_001
# Longer numbers are no ids, and Python refuses to read numbers of more than 4,300 digits.
RECORD_ID_DIGITS_MAX = 20
DEFAULT_LIFECYCLE_STAGE = "lead"


@dataclass(slots=True, eq=False)
class Contact:
    id: int
    created_at: float
    updated_at: float
    properties: dict[str, str] = field(default_factory=dict)
    archived_at: float | None = None

    def value(self, name: str) -> str | None:
        match name:
            case "hs_object_id":
                return str(self.id)
            case "createdate":
                return iso(self.created_at)
            case "lastmodifieddate":
                return iso(self.updated_at)
            case "hs_email_domain":
                return self.properties["email"].partition("@")[2] if "email" in self.properties else None
            case _:
                return self.properties.get(name)

    def emails(self) -> list[str]:
        """Primary and secondary addresses: all of them are keys."""
        primary = self.properties.get("email")
        return ([primary] if primary else []) + self.secondary_emails()

    def secondary_emails(self) -> list[str]:
        listed = self.properties.get("hs_additional_emails", "")
        return [email_key(email) for email in listed.split(";") if email.strip()]

    def as_json(self, properties: Mapping[str, str | None]) -> JsonObject:
        body: JsonObject = {
            "id": str(self.id),
            "properties": dict(properties),
            "createdAt": iso(self.created_at),
            "updatedAt": iso(self.updated_at),
            "archived": self.archived_at is not None,
        }
        return body if self.archived_at is None else {**body, "archivedAt": iso(self.archived_at)}

    def snapshot(self) -> "Contact":
        """The contact as it is now; its properties are replaced by a write, never changed."""
        return Contact(self.id, self.created_at, self.updated_at, self.properties)

    def everything(self) -> dict[str, str | None]:
        """All that is set, HubSpot's own timestamps and id included."""
        own = ("hs_object_id", "createdate", "lastmodifieddate")
        return {**self.properties, **{name: self.value(name) for name in own}}


@dataclass(eq=False)
class ValueTaken(Exception):
    """Another contact holds the unique value; nothing was written."""

    property: str
    value: str
    holder: Contact


class Blocked(Exception):
    """The address belongs to a person who was erased; nothing was written."""


class ContactStore:
    def __init__(self, schema: ContactSchema, switches: Switches, search_lag: timedelta) -> None:
        self.index: SearchIndex[Contact] = SearchIndex(search_lag)
        self._schema = schema
        self.switches = switches
        self._contacts: dict[int, Contact] = {}
        self._archived: dict[int, Contact] = {}
        self._by_key: dict[str, dict[str, Contact]] = {}
        self._merged_away: dict[tuple[str, str], Contact] = {}
        self._survivors: dict[int, Contact] = {}
        self._erased: dict[int, Contact] = {}
        self._blocklist: set[str] = set()
        self._next_id = FIRST_CONTACT_ID
        self._undo: list[_Undo] | None = None

    def __len__(self) -> int:
        return len(self._contacts)

    def clear(self) -> None:
        """Afterwards there is no contact, no archived one either, and nobody is blocked."""
        self.index.clear()
        self._survivors.clear()
        self._erased.clear()
        for kept in (self._contacts, self._archived, self._by_key, self._merged_away, self._blocklist):
            kept.clear()

    def find(self, key_property: str | None, key: str) -> Contact | None:
        """The contact of this record id (no key property), or of this unique value; any of its addresses will do."""
        if key_property is None:
            return self._of_record(int(key)) if _is_record_id(key) else None
        key = email_key(key) if key_property == "email" else key
        return self._by_key.get(key_property, {}).get(key)

    def _of_record(self, id_: int) -> Contact | None:
        found = self._contacts.get(id_)
        if found is None and self.switches.erased_record == "emptied":
            found = self._erased.get(id_)
        if found is None and self.switches.merged_away_records == "redirected":
            found = self._survivors.get(id_)
            return found if found is None or found.id in self._contacts else self._of_record(found.id)
        return found

    def find_archived(self, key: str) -> Contact | None:
        return self._archived.get(int(key)) if _is_record_id(key) else None

    def names_of(self, name: str) -> set[str]:
        """Every record id, address and unique value of the contact that goes by `name`, and `name` itself."""
        names = {email_key(name)}
        for key_property in (None, "email", *self._schema.unique_properties):
            if contact := self.find(key_property, name):
                names |= {str(contact.id), *(email_key(key) for _, key in self._keys(contact))}
        return names

    def page(self, after: int, limit: int, *, archived: bool = False) -> list[Contact]:
        """Up to `limit` contacts with ids above `after`, oldest first."""
        contacts = self._archived if archived else self._contacts
        return list(islice((c for c in contacts.values() if c.id > after), limit))

    def newest(self, limit: int) -> list[Contact]:
        return list(islice(reversed(self._contacts.values()), limit))

    def create(self, values: Mapping[str, str], now: float) -> Contact:
        """A new contact, or an archived one restored where the account's switch says so."""
        if restored := self._restorable(values):
            self._restore(restored, now)
            self.update(restored, values, now)
            return restored
        contact = Contact(self._next_id, now, now)
        self._check_writable(contact, values)
        self._next_id += 1
        self._remember(_Undo(contact, None, now))
        contact.properties = self.properties_after(None, values)
        self._keep(contact, now)
        return contact

    def update(self, contact: Contact, values: Mapping[str, str], now: float) -> None:
        """Set the values; "" clears. An earlier lifecycle stage is ignored without an error, as HubSpot does."""
        self._check_writable(contact, values)
        changed = self.properties_after(contact, values)
        if changed == contact.properties and not self.switches.identical_write_bumps_lastmodifieddate:
            return
        self._remember(_Undo(contact, contact.properties, contact.updated_at))
        self._unindex(contact)
        contact.properties = changed
        contact.updated_at = now
        self._keep(contact, now)

    def archive(self, contact: Contact, now: float) -> None:
        """Its keys are free, its id answers only to those who ask for archived contacts."""
        self._forget(contact, now)
        contact.archived_at = now
        self._archived[contact.id] = contact

    def erase(self, email: str | None, contact: Contact | None, now: float) -> None:
        """Delete the contact without a trace and block its addresses for good; an unknown address is blocked too."""
        self._blocklist |= {email_key(email)} if email else set()
        if contact is not None and contact.id not in self._erased:
            self._blocklist.update(contact.emails())
            if contact.archived_at is None:
                self._forget(contact, now)
            else:
                del self._archived[contact.id]
            self._erased[contact.id] = Contact(contact.id, contact.created_at, now)

    def merge(self, primary: Contact, other: Contact, now: float) -> Contact:
        """One contact of two, with a record id of its own; the other's addresses become secondary ones."""
        emails = dict.fromkeys([*primary.emails(), *other.emails()])
        merged_ids = [*_merged_ids(primary), *_merged_ids(other), str(primary.id), str(other.id)]
        stages = sorted(
            (it.properties.get("lifecyclestage", "") for it in (primary, other)),
            key=lambda stage: self._schema.rank("lifecyclestage", stage),
        )
        keys = {*self._keys(primary), *self._keys(other)}
        self._forget(primary, now)
        self._forget(other, now)
        survivor = Contact(self._next_id, min(primary.created_at, other.created_at), now)
        self._next_id += 1
        survivor.properties = {**other.properties, **primary.properties, "hs_merged_object_ids": ";".join(merged_ids)}
        _set_or_drop(survivor.properties, "lifecyclestage", stages[-1])
        _set_or_drop(survivor.properties, "email", next(iter(emails), ""))
        _set_or_drop(survivor.properties, "hs_additional_emails", ";".join(list(emails)[1:]))
        self._keep(survivor, now)
        self._survivors |= {primary.id: survivor, other.id: survivor}
        if self.switches.merged_away_keys == "kept":
            self._merged_away.update(dict.fromkeys(keys - {*self._keys(survivor)}, survivor))
        return survivor

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Writes made inside are undone together if the block ends with an exception."""
        undo: list[_Undo] = []
        self._undo = undo
        try:
            yield
            undo = []
        finally:
            self._undo = None
            self._revert(undo)

    def next_id(self) -> int:
        """The id that the next contact would get."""
        return self._next_id

    def _keep(self, contact: Contact, now: float) -> None:
        self._contacts[contact.id] = contact
        self._index(contact)
        self.index.note(contact.id, contact.snapshot(), now)

    def _forget(self, contact: Contact, now: float) -> None:
        self._unindex(contact)
        del self._contacts[contact.id]
        self.index.note(contact.id, None, now)

    def _restorable(self, values: Mapping[str, str]) -> Contact | None:
        email = values.get("email")
        if not email or self.switches.write_to_archived_email == "new" or self.find("email", email):
            return None
        return next((it for it in self._archived.values() if email in it.emails()), None)

    def _restore(self, contact: Contact, now: float) -> None:
        self._remember(_Undo(contact, contact.properties, contact.updated_at, contact.archived_at))
        contact.archived_at = None
        del self._archived[contact.id]
        self._keep(contact, now)
        self._contacts = dict(sorted(self._contacts.items()))

    def properties_after(self, contact: Contact | None, values: Mapping[str, str]) -> dict[str, str]:
        """What the contact's properties, or a new one's, would be once `values` are written."""
        properties = dict(contact.properties) if contact else {"lifecyclestage": DEFAULT_LIFECYCLE_STAGE}
        for name, value in values.items():
            current = properties.get(name)
            if name == "email" and contact and value in contact.secondary_emails():
                _promote(properties, value, contact)
                continue
            if name == "email" and current and value != current and self.switches.former_email == "secondary":
                _set_or_drop(properties, "hs_additional_emails", ";".join([*_listed_emails(properties), current]))
            if value == "":
                properties.pop(name, None)
            elif name == "lifecyclestage" and contact and current and not self._is_forward(current, value):
                continue
            elif self._schema.appends(name, value):
                properties[name] = _ticked(current, value)
            else:
                properties[name] = value
        return properties

    def _is_forward(self, current: str, wanted: str) -> bool:
        return self._schema.rank("lifecyclestage", wanted) >= self._schema.rank("lifecyclestage", current)

    def _check_writable(self, contact: Contact, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            for key_property, key in self._keys_of_value(name, value):
                if key_property == "email" and key in self._blocklist:
                    raise Blocked
                holder = self.find(key_property, key) or self._merged_away.get((key_property, key))
                if holder is not None and holder is not contact:
                    raise ValueTaken(key_property, key, holder)

    def _keys_of_value(self, name: str, value: str) -> list[tuple[str, str]]:
        if name == "hs_additional_emails":
            return [("email", email_key(email)) for email in value.split(";") if email.strip()]
        if value and (name == "email" or name in self._schema.unique_properties):
            return [(name, value)]
        return []

    def _keys(self, contact: Contact) -> Iterator[tuple[str, str]]:
        for email in contact.emails():
            yield "email", email
        for name in self._schema.unique_properties:
            if name in contact.properties:
                yield name, contact.properties[name]

    def _index(self, contact: Contact) -> None:
        for key_property, key in self._keys(contact):
            self._by_key.setdefault(key_property, {})[key] = contact

    def _unindex(self, contact: Contact) -> None:
        for key_property, key in self._keys(contact):
            self._by_key.get(key_property, {}).pop(key, None)

    def _remember(self, undo: "_Undo") -> None:
        if self._undo is not None:
            self._undo.append(undo)

    def _revert(self, writes: "list[_Undo]") -> None:
        for write in reversed(writes):
            self._unindex(write.contact)
            if write.properties is None:
                del self._contacts[write.contact.id]
                continue
            write.contact.properties = write.properties
            write.contact.updated_at = write.updated_at
            if write.archived_at is not None:
                write.contact.archived_at = write.archived_at
                self._archived[write.contact.id] = self._contacts.pop(write.contact.id)
                continue
            self._index(write.contact)
        self.index.forget_last(len(writes))


@dataclass(frozen=True, slots=True)
class _Undo:
    """What a contact was before a write; no properties means that the write created it."""

    contact: Contact
    properties: dict[str, str] | None
    updated_at: float
    archived_at: float | None = None


def _is_record_id(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) < RECORD_ID_DIGITS_MAX


def _merged_ids(contact: Contact) -> list[str]:
    return [it for it in contact.properties.get("hs_merged_object_ids", "").split(";") if it]


def _set_or_drop(properties: dict[str, str], name: str, value: str) -> None:
    if value:
        properties[name] = value
    else:
        properties.pop(name, None)


def _listed_emails(properties: Mapping[str, str]) -> list[str]:
    return [email for email in properties.get("hs_additional_emails", "").split(";") if email]


def _promote(properties: dict[str, str], email: str, contact: Contact) -> None:
    """A secondary address written to `email` becomes the primary one; the two change places."""
    others = [other for other in contact.emails() if other != email]
    properties["email"] = email
    properties["hs_additional_emails"] = ";".join(others)


def _ticked(current: str | None, appended: str) -> str:
    """The checkboxes ticked after `;c` is added to `a;b`."""
    boxes = [*(current or "").split(";"), *appended.split(";")]
    return ";".join(dict.fromkeys(box for box in boxes if box))
