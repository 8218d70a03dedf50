"""Custom events: definitions, sends, and what became of them."""

from collections.abc import Sequence

from hubspot_sandbox import errors, events
from hubspot_sandbox.account import Account
from hubspot_sandbox.call import Call
from hubspot_sandbox.contact_reads import number
from hubspot_sandbox.contacts import Contact
from hubspot_sandbox.errors import HubSpotError
from hubspot_sandbox.events import (
    BatchEventSend,
    EventDefinition,
    EventDefinitionCreate,
    EventDefinitionPatch,
    EventProperty,
    EventPropertyPatch,
    EventSend,
)
from hubspot_sandbox.wire import Answer, JsonObject, read_body

PAGE_MAX = 100


def define_event(account: Account, call: Call) -> Answer:
    _check_subscription(account)
    return Answer(201, account.events.define(read_body(EventDefinitionCreate, call.body), account.clock()).as_json())


def list_definitions(account: Account, call: Call) -> Answer:
    sought = call.query.get("searchString", "").lower()
    definitions = [it for it in account.events.definitions() if sought in it.name or sought in it.label.lower()]
    return Answer(200, _page(call, [it.as_json() for it in definitions], total=True))


def get_definition(account: Account, call: Call) -> Answer:
    return Answer(200, _definition(account, call).as_json())


def patch_definition(account: Account, call: Call) -> Answer:
    changes = read_body(EventDefinitionPatch, call.body)
    definition = _definition(account, call)
    definition.label = changes.label or definition.label
    definition.description = definition.description if changes.description is None else changes.description
    definition.updated_at = account.clock()
    return Answer(200, definition.as_json())


def delete_definition(account: Account, call: Call) -> Answer:
    account.events.delete(call.parameters["name"])
    return Answer(204)


def add_property(account: Account, call: Call) -> Answer:
    definition = _definition(account, call)
    events.add_property(definition, read_body(EventProperty, call.body), account.clock())
    return Answer(201, definition.as_json())


def patch_property(account: Account, call: Call) -> Answer:
    definition, name = _definition(account, call), call.parameters["property"]
    changes = read_body(EventPropertyPatch, call.body)
    if name not in definition.properties:
        raise errors.not_found(f"No property {name}")
    changed = definition.properties[name].model_copy(update=changes.model_dump(exclude_none=True, exclude={"options"}))
    if changes.options is not None:
        changed = changed.model_copy(update={"options": changes.options})
    definition.properties[name] = changed
    return Answer(200, definition.as_json())


def delete_property(account: Account, call: Call) -> Answer:
    if _definition(account, call).properties.pop(call.parameters["property"], None) is None:
        raise errors.not_found(f"No property {call.parameters['property']}")
    return Answer(204)


def send_event(account: Account, call: Call) -> Answer:
    _check_subscription(account)
    _accept(account, read_body(EventSend, call.body))
    return Answer(204)


def send_events(account: Account, call: Call) -> Answer:
    """204 for all, whatever became of each; a bad one refuses all or is dropped, as the account's switch says."""
    _check_subscription(account)
    inputs = read_body(BatchEventSend, call.body).inputs
    events.check_count(inputs)
    if account.switches.bad_event_in_batch == "refuses_all":
        for wanted in inputs:
            account.events.check(wanted)
    for wanted in inputs:
        try:
            _accept(account, wanted)
        except HubSpotError:
            if account.switches.bad_event_in_batch == "refuses_all":
                raise
    return Answer(204)


def list_occurrences(account: Account, call: Call) -> Answer:
    """`objectId` and `eventType` narrow the list."""
    sought = (call.query.get("objectId"), call.query.get("eventType"))
    occurrences = [
        it.as_json()
        for it in account.events.occurrences
        if sought[0] in (None, it.object_id) and sought[1] in (None, it.event)
    ]
    return Answer(200, _page(call, occurrences))


def _accept(account: Account, wanted: EventSend) -> None:
    now = account.clock()
    account.events.check(wanted)
    if account.events.is_duplicate(wanted, now):
        events.refused_duplicate(account.switches)
        return
    contact = _contact_of(account, wanted)
    if contact is not None:
        account.events.record(wanted, contact, now)


def _contact_of(account: Account, wanted: EventSend) -> Contact | None:
    if wanted.object_id:
        return account.contacts.find(None, wanted.object_id)
    if not wanted.email:
        return None
    contact = account.contacts.find("email", wanted.email)
    if contact is None and account.switches.event_creates_contact:
        contact = account.contacts.create(account.schema.stored_values({"email": wanted.email}), account.clock())
    return contact


def _definition(account: Account, call: Call) -> EventDefinition:
    return account.events.get(call.parameters["name"])


def _check_subscription(account: Account) -> None:
    if not account.settings.custom_events:
        raise errors.forbidden()


def _page(call: Call, everything: Sequence[JsonObject], *, total: bool = False) -> JsonObject:
    limit, after = number(call, "limit", PAGE_MAX), number(call, "after", 0)
    if not 1 <= limit <= PAGE_MAX:
        raise errors.validation_error(f"limit {limit} is not between 1 and {PAGE_MAX}")
    body: JsonObject = {"results": list(everything[after : after + limit])}
    if total:
        body["total"] = len(everything)
    if after + limit < len(everything):
        body["paging"] = call.next_page(str(after + limit))
    return body
