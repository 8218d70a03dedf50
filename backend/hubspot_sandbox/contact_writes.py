"""Writing contacts, one or a batch: all or nothing without trace ids, row by row with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from hubspot_sandbox import errors
from hubspot_sandbox.account import Account
from hubspot_sandbox.batches import batch_answer, check_size, could_not_get, duplicates
from hubspot_sandbox.call import Call, InputIgnored, RaceLost
from hubspot_sandbox.contact_reads import addressed_contact, shown
from hubspot_sandbox.contacts import Blocked, Contact, ValueTaken
from hubspot_sandbox.errors import HubSpotError, ValueProblem
from hubspot_sandbox.properties import InvalidValues
from hubspot_sandbox.values import email_key
from hubspot_sandbox.wire import (
    Answer,
    BatchCreate,
    BatchIds,
    BatchUpdate,
    BatchUpsert,
    ContactWrite,
    CreateInput,
    GdprDelete,
    JsonObject,
    Merge,
    PropertyValues,
    TracedInput,
    UpdateInput,
    UpsertInput,
    read_body,
)

I = TypeVar("I", bound=TracedInput)  # noqa: E741


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


@dataclass(frozen=True, slots=True)
class _Batch(Generic[I]):
    """A batch write: which values each input sends, by which key it could lose a race, and how it is written."""

    inputs: Sequence[I]
    values_of: Callable[[I], PropertyValues]
    key_of: Callable[[I], tuple[str, str] | None]
    write: Callable[[I, dict[str, str]], JsonObject]


# One contact


def create_contact(account: Account, call: Call) -> Answer:
    wanted = read_body(ContactWrite, call.body)
    _meet_fault(account, call, 0, _email_in(wanted))
    return Answer(201, write_contact(account, call, None, stored_values(account, wanted.properties)).as_json())


def patch_contact(account: Account, call: Call) -> Answer:
    contact = addressed_contact(account, call)
    wanted = read_body(ContactWrite, call.body)
    _meet_fault(account, call, 0, None)
    return Answer(200, write_contact(account, call, contact, stored_values(account, wanted.properties)).as_json())


def archive_contact(account: Account, call: Call) -> Answer:
    """204 whatever was there before."""
    contact = account.contacts.find(None, call.parameters["id"])
    if contact is not None:
        account.contacts.archive(contact, account.clock())
    return Answer(204)


def erase_contact(account: Account, call: Call) -> Answer:
    wanted = read_body(GdprDelete, call.body)
    by_email = wanted.id_property == "email"
    if wanted.id_property not in (None, "email", "hs_object_id"):
        raise errors.non_unique_key("gdpr-delete", wanted.id_property or "")
    if account.switches.gdpr_delete == "forbidden":
        raise errors.forbidden()
    if account.switches.gdpr_delete == "refused":
        raise errors.validation_error("GDPR delete is not enabled for this portal")
    contact = account.contacts.find("email" if by_email else None, wanted.object_id)
    if contact is None and not by_email and account.switches.gdpr_delete_of_archived:
        contact = account.contacts.find_archived(wanted.object_id)
    if contact is None and not by_email:
        raise errors.not_found()
    account.contacts.erase(wanted.object_id if by_email else None, contact, account.clock())
    return Answer(204)


def merge_contacts(account: Account, call: Call) -> Answer:
    wanted = read_body(Merge, call.body)
    primary = account.contacts.find(None, wanted.primary_object_id)
    other = account.contacts.find(None, wanted.object_id_to_merge)
    if primary is None or other is None:
        raise errors.not_found()
    if primary is other:
        raise errors.validation_error("A contact cannot be merged with itself")
    return Answer(200, shown(account, account.contacts.merge(primary, other, account.clock())))


def write_contact(account: Account, call: Call, contact: Contact | None, values: Mapping[str, str]) -> WrittenContact:
    """Write one contact, a new one if `contact` is None; a unique value of another contact is HubSpot's 409 or 400."""
    writer = contact.id if contact else account.contacts.next_id()
    if values.get("email") == "" and account.switches.empty_email == "refused":
        raise errors.validation_error("email cannot be empty")
    if call.enforces_account_rules:
        account.settings.rules.check(account.contacts.properties_after(contact, values), is_new=contact is None)
    try:
        if contact is None:
            return WrittenContact(account.contacts.create(values, account.clock()), True, values)
        account.contacts.update(contact, values, account.clock())
    except ValueTaken as taken:
        raise _conflict(account, taken, writer) from taken
    except Blocked as blocked:
        raise errors.blocked_email() from blocked
    return WrittenContact(contact, False, values)


def stored_values(account: Account, values: PropertyValues) -> dict[str, str]:
    try:
        return account.schema.stored_values(values)
    except InvalidValues as refusal:
        raise errors.property_values_invalid(refusal.problems) from refusal


# Batches


def upsert_batch(account: Account, call: Call) -> Answer:
    inputs = read_body(BatchUpsert, call.body).inputs
    _check_ids(account, inputs)

    def write(wanted: UpsertInput, values: dict[str, str]) -> JsonObject:
        contact = account.contacts.find(wanted.id_property, wanted.id)
        if contact is None and wanted.id_property is None:
            raise errors.not_found()
        if contact is not None and wanted.id_property not in wanted.properties:
            # The key found the contact and is not itself to be written: a secondary address must not become primary.
            values = {name: value for name, value in values.items() if name != wanted.id_property}
        written = write_contact(account, call, contact, values)
        return {**written.as_json(), "new": written.created}

    row_by_row = account.switches.trace_ids_split_upserts and _every_input_is_traced(inputs)
    batch = _Batch(inputs, _with_key, lambda it: (it.id_property, it.id) if it.id_property else None, write)
    return _write_batch(account, call, 200, batch, row_by_row=row_by_row)


def create_batch(account: Account, call: Call) -> Answer:
    inputs = read_body(BatchCreate, call.body).inputs
    check_size(inputs)

    def write(_: CreateInput, values: dict[str, str]) -> JsonObject:
        return write_contact(account, call, None, values).as_json()

    batch = _Batch(inputs, lambda it: it.properties, _email_in, write)
    return _write_batch(account, call, 201, batch, row_by_row=_every_input_is_traced(inputs))


def update_batch(account: Account, call: Call) -> Answer:
    """Unknown ids share one error, with or without trace ids; for the others the rules of every batch hold."""
    inputs = read_body(BatchUpdate, call.body).inputs
    _check_ids(account, inputs)
    if any(wanted.id_property == "email" for wanted in inputs):
        raise errors.non_unique_key("update/upsert", "email")
    known = [wanted for wanted in inputs if account.contacts.find(wanted.id_property, wanted.id)]
    unknown = [wanted.id for wanted in inputs if wanted not in known]

    def write(wanted: UpdateInput, values: dict[str, str]) -> JsonObject:
        return write_contact(account, call, account.contacts.find(wanted.id_property, wanted.id), values).as_json()

    batch = _Batch(known, lambda it: it.properties, lambda _: None, write)
    failures = [could_not_get(unknown)] if unknown else []
    return _write_batch(account, call, 200, batch, failures, row_by_row=_every_input_is_traced(inputs))


def archive_batch(account: Account, call: Call) -> Answer:
    """204 whatever was there before."""
    inputs = read_body(BatchIds, call.body).inputs
    check_size(inputs)
    for wanted in inputs:
        if contact := account.contacts.find(None, wanted.id):
            account.contacts.archive(contact, account.clock())
    return Answer(204)


def _write_batch(
    account: Account,
    call: Call,
    status: int,
    batch: _Batch[I],
    failures: Sequence[JsonObject] = (),
    *,
    row_by_row: bool,
) -> Answer:
    started = account.clock()
    account.contacts.index.catch_up(started)
    if row_by_row:
        rows, refused = _write_row_by_row(account, call, batch)
    else:
        rows, refused = _write_all_or_nothing(account, call, batch), []
    return batch_answer(account, started, status, rows, [*failures, *refused])


def _write_row_by_row(account: Account, call: Call, batch: _Batch[I]) -> tuple[list[JsonObject], list[JsonObject]]:
    rows: list[JsonObject] = []
    failures: list[JsonObject] = []
    for position, wanted in enumerate(batch.inputs):
        try:
            _meet_fault(account, call, position, batch.key_of(wanted))
            values = stored_values(account, batch.values_of(wanted))
            rows.append(_traced(account, wanted, batch.write(wanted, values)))
        except HubSpotError as error:
            failures.append(error.as_row(wanted.object_write_trace_id or ""))
        except InputIgnored:
            continue
    return rows, failures


def _write_all_or_nothing(account: Account, call: Call, batch: _Batch[I]) -> list[JsonObject]:
    written = []
    for position, wanted in enumerate(batch.inputs):
        try:
            _meet_fault(account, call, position, batch.key_of(wanted))
        except InputIgnored:
            continue
        written.append(wanted)
    values = _stored_values_of_all(account, [batch.values_of(wanted) for wanted in written])
    with account.contacts.transaction():
        return [
            _traced(account, wanted, batch.write(wanted, stored))
            for wanted, stored in zip(written, values, strict=True)
        ]


def _meet_fault(account: Account, call: Call, position: int, key: tuple[str, str] | None) -> None:
    """Raise what a fault makes of this input. A race can only be lost by an input whose contact is new."""
    try:
        call.meet_fault(position)
    except RaceLost as lost:
        if key is None or account.contacts.find(*key):
            return
        values = stored_values(account, dict([key]))
        rival = account.contacts.create(values, account.clock())
        phantom = account.contacts.next_id()
        raise errors.value_taken(
            account.settings.portal_id, key[0], values[key[0]], str(phantom), str(rival.id)
        ) from lost


def _traced(account: Account, wanted: TracedInput, row: JsonObject) -> JsonObject:
    if wanted.object_write_trace_id and account.switches.echo_trace_ids:
        row["objectWriteTraceId"] = wanted.object_write_trace_id
    return row


def _check_ids(account: Account, inputs: Sequence[UpsertInput]) -> None:
    """Refuse the whole request for its size, a key property that is not unique, or two inputs about one key."""
    check_size(inputs)
    for key_property in dict.fromkeys(wanted.id_property for wanted in inputs):
        if key_property is not None:
            account.schema.key_property(key_property, "update/upsert")
        keys = [_key(wanted) for wanted in inputs if wanted.id_property == key_property]
        if repeated := duplicates(keys):
            raise errors.duplicate_ids(repeated)


def _key(wanted: UpsertInput) -> str:
    return email_key(wanted.id) if wanted.id_property == "email" else wanted.id


def _with_key(wanted: UpsertInput) -> PropertyValues:
    """The properties to write to a new contact: its key is one of them."""
    if wanted.id_property is None:
        return wanted.properties
    return {wanted.id_property: wanted.id, **wanted.properties}


def _email_in(wanted: ContactWrite) -> tuple[str, str] | None:
    email = wanted.properties.get("email")
    return ("email", email) if isinstance(email, str) and email else None


def _every_input_is_traced(inputs: Sequence[TracedInput]) -> bool:
    """Whether each input has a trace id of its own: what makes HubSpot answer row by row."""
    trace_ids = [wanted.object_write_trace_id for wanted in inputs if wanted.object_write_trace_id]
    return len(set(trace_ids)) == len(inputs)


def _stored_values_of_all(account: Account, all_values: Sequence[PropertyValues]) -> list[dict[str, str]]:
    """Every input's values, or one 400 about all of them, which does not say whose value is bad."""
    stored: list[dict[str, str]] = []
    problems: list[ValueProblem] = []
    for values in all_values:
        try:
            stored.append(account.schema.stored_values(values))
        except InvalidValues as refusal:
            problems += refusal.problems
    if problems:
        raise errors.property_values_invalid(problems)
    return stored


def _conflict(account: Account, taken: ValueTaken, writer: int) -> HubSpotError:
    if taken.property == "email" and account.switches.email_conflict == "conflict":
        return errors.contact_exists(str(taken.holder.id))
    return errors.value_taken(
        account.settings.portal_id, taken.property, taken.value, str(writer), str(taken.holder.id)
    )
