"""HubSpot's batch contract for contacts: all or nothing without trace ids, row by row with them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hubspot_sandbox import errors
from hubspot_sandbox.account import Account
from hubspot_sandbox.contacts import Contact, ValueTaken
from hubspot_sandbox.errors import HubSpotError, ValueProblem
from hubspot_sandbox.properties import InvalidValues
from hubspot_sandbox.values import email_key
from hubspot_sandbox.wire import BatchRead, JsonObject, PropertyValues, UpsertInput, iso

BATCH_INPUTS_MAX = 100
DEFAULT_READ_PROPERTIES = ("createdate", "email", "firstname", "hs_object_id", "lastmodifieddate", "lastname")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: JsonObject


@dataclass(frozen=True, slots=True)
class WrittenContact:
    contact: Contact
    created: bool
    sent: Mapping[str, str]

    def as_json(self) -> JsonObject:
        """What a write answers: the properties sent and the ones HubSpot touched, never the full record."""
        touched = ["createdate", "hs_object_id", "lastmodifieddate", "lifecyclestage"]
        if self.created:
            touched.append("hs_email_domain")
        values = {name: self.contact.value(name) or "" for name in self.sent}
        values |= {name: value for name in touched if (value := self.contact.value(name)) is not None}
        return self.contact.as_json(values)


def upsert_contacts(account: Account, inputs: Sequence[UpsertInput]) -> Answer:
    """Create or update the contact each input names, by the rules for batches."""
    started = account.clock()
    check_size(inputs)
    _check_keys(account, inputs)
    if _every_input_is_traced(inputs):
        rows, failures = _upsert_row_by_row(account, inputs)
    else:
        rows, failures = _upsert_all_or_nothing(account, inputs), []
    account.random.shuffle(rows)
    return batch_answer(account, started, 200, rows, failures)


def read_contacts(account: Account, request: BatchRead) -> Answer:
    """The contacts found; those that are not share one error, with or without trace ids."""
    started = account.clock()
    check_size(request.inputs)
    key_property = request.id_property and account.schema.key_property(request.id_property, "read")
    found: list[JsonObject] = []
    missing: list[str] = []
    for key in dict.fromkeys(wanted.id for wanted in request.inputs):
        contact = account.contacts.find(key_property, key)
        if contact is None:
            missing.append(key)
        else:
            found.append(contact.as_json(read_properties(account, contact, request.properties)))
    account.random.shuffle(found)
    return batch_answer(account, started, 200, found, [_could_not_get(missing)] if missing else [])


def read_properties(account: Account, contact: Contact, wanted: Iterable[str]) -> dict[str, str | None]:
    """The properties asked for, null where empty; names the account does not know are left out without an error."""
    return {name: contact.value(name) for name in (*DEFAULT_READ_PROPERTIES, *wanted) if name in account.schema}


def write_contact(account: Account, contact: Contact | None, values: Mapping[str, str]) -> WrittenContact:
    """Write one contact, a new one if `contact` is None; a unique value of another contact is HubSpot's 409 or 400."""
    writer = contact.id if contact else account.contacts.next_id()
    try:
        if contact is None:
            return WrittenContact(account.contacts.create(values, account.clock()), True, values)
        account.contacts.update(contact, values, account.clock())
    except ValueTaken as taken:
        raise _conflict(account, taken, writer) from taken
    return WrittenContact(contact, False, values)


def stored_values(account: Account, values: PropertyValues) -> dict[str, str]:
    try:
        return account.schema.stored_values(values)
    except InvalidValues as refusal:
        raise errors.property_values_invalid(refusal.problems) from refusal


def batch_answer(
    account: Account, started: float, status: int, results: list[JsonObject], failures: list[JsonObject]
) -> Answer:
    """`status` on full success, without an `errors` key; 207 when some inputs failed."""
    now = iso(account.clock())
    body: JsonObject = {
        "status": "COMPLETE",
        "results": results,
        "requestedAt": iso(started),
        "startedAt": iso(started),
        "completedAt": now,
    }
    if failures:
        body |= {"numErrors": len(failures), "errors": failures}
    return Answer(207 if failures else status, body)


def check_size(inputs: Sequence[object]) -> None:
    if not 1 <= len(inputs) <= BATCH_INPUTS_MAX:
        raise errors.batch_size(len(inputs), BATCH_INPUTS_MAX)


def duplicates(values: Iterable[str]) -> list[str]:
    """Values that occur more than once, each once, in order of their second occurrence."""
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for value in values:
        if value in seen:
            repeated[value] = None
        seen.add(value)
    return list(repeated)


def _check_keys(account: Account, inputs: Sequence[UpsertInput]) -> None:
    """Refuse the whole request for a key property that is not unique, and for two inputs about one key."""
    for key_property in dict.fromkeys(wanted.id_property for wanted in inputs):
        if key_property is not None:
            account.schema.key_property(key_property, "update/upsert")
        keys = [_key(wanted) for wanted in inputs if wanted.id_property == key_property]
        if repeated := duplicates(keys):
            raise errors.duplicate_ids(repeated)


def _key(wanted: UpsertInput) -> str:
    return email_key(wanted.id) if wanted.id_property == "email" else wanted.id


def _every_input_is_traced(inputs: Sequence[UpsertInput]) -> bool:
    """Whether each input has a trace id of its own: what makes HubSpot answer row by row."""
    trace_ids = [wanted.object_write_trace_id for wanted in inputs if wanted.object_write_trace_id]
    return len(set(trace_ids)) == len(inputs)


def _upsert_row_by_row(account: Account, inputs: Sequence[UpsertInput]) -> tuple[list[JsonObject], list[JsonObject]]:
    rows: list[JsonObject] = []
    failures: list[JsonObject] = []
    for wanted in inputs:
        try:
            values = stored_values(account, _with_key(wanted))
            rows.append(_upsert_one(account, wanted, values))
        except HubSpotError as error:
            failures.append(error.as_row(wanted.object_write_trace_id or ""))
    return rows, failures


def _upsert_all_or_nothing(account: Account, inputs: Sequence[UpsertInput]) -> list[JsonObject]:
    values = _stored_values_of_all(account, inputs)
    with account.contacts.transaction():
        return [_upsert_one(account, wanted, stored) for wanted, stored in zip(inputs, values, strict=True)]


def _stored_values_of_all(account: Account, inputs: Sequence[UpsertInput]) -> list[dict[str, str]]:
    """Every input's values, or one 400 about all of them, which does not say whose value is bad."""
    stored: list[dict[str, str]] = []
    problems: list[ValueProblem] = []
    for wanted in inputs:
        try:
            stored.append(account.schema.stored_values(_with_key(wanted)))
        except InvalidValues as refusal:
            problems += refusal.problems
    if problems:
        raise errors.property_values_invalid(problems)
    return stored


def _with_key(wanted: UpsertInput) -> PropertyValues:
    """The properties to write to a new contact: its key is one of them."""
    if wanted.id_property is None:
        return wanted.properties
    return {wanted.id_property: wanted.id, **wanted.properties}


def _upsert_one(account: Account, wanted: UpsertInput, values: dict[str, str]) -> JsonObject:
    contact = account.contacts.find(wanted.id_property, wanted.id)
    if contact is None and wanted.id_property is None:
        raise errors.not_found()
    if contact is not None and wanted.id_property not in wanted.properties:
        # The key found the contact and is not itself to be written: a secondary address must not become the primary.
        values = {name: value for name, value in values.items() if name != wanted.id_property}
    written = write_contact(account, contact, values)
    row = {**written.as_json(), "new": written.created}
    if wanted.object_write_trace_id and account.settings.switches.echo_trace_ids:
        row["objectWriteTraceId"] = wanted.object_write_trace_id
    return row


def _conflict(account: Account, taken: ValueTaken, writer: int) -> HubSpotError:
    if taken.property == "email" and account.settings.switches.email_conflict == "conflict":
        return errors.contact_exists(str(taken.holder.id))
    return errors.value_taken(
        account.settings.portal_id, taken.property, taken.value, str(writer), str(taken.holder.id)
    )


def _could_not_get(ids: list[str]) -> JsonObject:
    return {
        "status": "error",
        "category": "OBJECT_NOT_FOUND",
        "message": "Could not get some CONTACT objects, they may be deleted or not exist. Check that ids are valid.",
        "context": {"ids": ids},
    }
