"""The contacts of the account and the indexes that find them: pure state, no HTTP.

Every lookup is one dictionary access, so that a hundred thousand stored contacts cost no more than ten.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from hubspot_sandbox.properties import ContactSchema
from hubspot_sandbox.values import email_key
from hubspot_sandbox.wire import JsonObject, iso

# Real record ids are long and nobody's own counter; a client that mistakes its ids for HubSpot's finds nothing.
FIRST_CONTACT_ID = 80_000_000_001
DEFAULT_LIFECYCLE_STAGE = "lead"


@dataclass(slots=True, eq=False)
class Contact:
    id: int
    created_at: float
    updated_at: float
    properties: dict[str, str] = field(default_factory=dict)

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
        return {
            "id": str(self.id),
            "properties": dict(properties),
            "createdAt": iso(self.created_at),
            "updatedAt": iso(self.updated_at),
            "archived": False,
        }

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


class ContactStore:
    def __init__(self, schema: ContactSchema, *, identical_write_bumps: bool) -> None:
        self._schema = schema
        self._identical_write_bumps = identical_write_bumps
        self._contacts: dict[int, Contact] = {}
        self._by_key: dict[str, dict[str, Contact]] = {}
        self._next_id = FIRST_CONTACT_ID
        self._undo: list[_Undo] | None = None

    def __len__(self) -> int:
        return len(self._contacts)

    def clear(self) -> None:
        self._contacts.clear()
        self._by_key.clear()

    def find(self, key_property: str | None, key: str) -> Contact | None:
        """The contact of this record id (no key property), or of this unique value; any of its addresses will do."""
        if key_property is None:
            return self._contacts.get(int(key)) if key.isascii() and key.isdigit() else None
        key = email_key(key) if key_property == "email" else key
        return self._by_key.get(key_property, {}).get(key)

    def page(self, after: int, limit: int) -> list[Contact]:
        """Up to `limit` contacts with ids above `after`, oldest first."""
        return list(islice((c for c in self._contacts.values() if c.id > after), limit))

    def newest(self, limit: int) -> list[Contact]:
        return list(islice(reversed(self._contacts.values()), limit))

    def create(self, values: Mapping[str, str], now: float) -> Contact:
        contact = Contact(self._next_id, now, now)
        self._check_unique(contact, values)
        self._next_id += 1
        self._remember(_Undo(contact, None, now))
        contact.properties = {
            "lifecyclestage": DEFAULT_LIFECYCLE_STAGE,
            **self._after_update(contact, values),
        }
        self._contacts[contact.id] = contact
        self._index(contact)
        return contact

    def update(self, contact: Contact, values: Mapping[str, str], now: float) -> None:
        """Set the values; "" clears. An earlier lifecycle stage is ignored without an error, as HubSpot does."""
        self._check_unique(contact, values)
        changed = self._after_update(contact, values)
        if changed == contact.properties and not self._identical_write_bumps:
            return
        self._remember(_Undo(contact, contact.properties, contact.updated_at))
        self._unindex(contact)
        contact.properties = changed
        contact.updated_at = now
        self._index(contact)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Writes made inside are undone together if the block ends with an exception."""
        self._undo = []
        try:
            yield
        except BaseException:
            self._revert(self._undo)
            raise
        finally:
            self._undo = None

    def next_id(self) -> int:
        """The id that the next contact would get."""
        return self._next_id

    def _after_update(self, contact: Contact, values: Mapping[str, str]) -> dict[str, str]:
        properties = dict(contact.properties)
        for name, value in values.items():
            current = properties.get(name)
            if name == "email" and value in contact.secondary_emails():
                _promote(properties, value, contact)
            elif value == "":
                properties.pop(name, None)
            elif name == "lifecyclestage" and current and not self._is_forward(current, value):
                continue
            elif self._schema.appends(name, value):
                properties[name] = _ticked(current, value)
            else:
                properties[name] = value
        return properties

    def _is_forward(self, current: str, wanted: str) -> bool:
        return self._schema.rank("lifecyclestage", wanted) >= self._schema.rank("lifecyclestage", current)

    def _check_unique(self, contact: Contact, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            for key_property, key in self._keys_of_value(name, value):
                holder = self.find(key_property, key)
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
            self._index(write.contact)


@dataclass(frozen=True, slots=True)
class _Undo:
    """What a contact was before a write; no properties means that the write created it."""

    contact: Contact
    properties: dict[str, str] | None
    updated_at: float


def _promote(properties: dict[str, str], email: str, contact: Contact) -> None:
    """A secondary address written to `email` becomes the primary one; the two change places."""
    others = [other for other in contact.emails() if other != email]
    properties["email"] = email
    properties["hs_additional_emails"] = ";".join(others)


def _ticked(current: str | None, appended: str) -> str:
    """The checkboxes ticked after `;c` is added to `a;b`."""
    boxes = [*(current or "").split(";"), *appended.split(";")]
    return ";".join(dict.fromkeys(box for box in boxes if box))
