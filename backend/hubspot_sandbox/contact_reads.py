"""Reading contacts: one, a page, a batch."""

from collections.abc import Iterable, Iterator

from hubspot_sandbox import errors
from hubspot_sandbox.account import Account
from hubspot_sandbox.batches import batch_answer, check_size, could_not_get
from hubspot_sandbox.call import Call
from hubspot_sandbox.contacts import Contact
from hubspot_sandbox.wire import Answer, BatchRead, JsonObject, iso, read_body

DEFAULT_PROPERTIES = ("createdate", "email", "firstname", "hs_object_id", "lastmodifieddate", "lastname")
PAGE_MAX = 100
PAGE_WITH_HISTORY_MAX = 50


def get_contact(account: Account, call: Call) -> Answer:
    if _flag(call, "archived"):
        contact = account.contacts.find_archived(call.parameters["id"])
        if contact is None:
            raise errors.not_found()
    else:
        contact = addressed_contact(account, call)
    history = list(listed(call, "propertiesWithHistory"))
    return Answer(200, shown(account, contact, listed(call, "properties"), history))


def list_contacts(account: Account, call: Call) -> Answer:
    history = list(listed(call, "propertiesWithHistory"))
    limit = number(call, "limit", 10)
    if not 1 <= limit <= (PAGE_WITH_HISTORY_MAX if history else PAGE_MAX):
        raise errors.validation_error(f"limit {limit} is out of range")
    contacts = account.contacts.page(number(call, "after", 0), limit + 1, archived=_flag(call, "archived"))
    wanted = list(listed(call, "properties"))
    body: JsonObject = {"results": [shown(account, it, wanted, history) for it in contacts[:limit]]}
    if len(contacts) > limit:
        body["paging"] = call.next_page(str(contacts[limit - 1].id))
    return Answer(200, body)


def read_batch(account: Account, call: Call) -> Answer:
    """The contacts found; those that are not share one error, with or without trace ids."""
    started = account.clock()
    request = read_body(BatchRead, call.body)
    check_size(request.inputs)
    archived = _flag(call, "archived")
    key_property = request.id_property and account.schema.key_property(request.id_property, "read")
    found: list[JsonObject] = []
    missing: list[str] = []
    for key in dict.fromkeys(wanted.id for wanted in request.inputs):
        contact = account.contacts.find_archived(key) if archived else account.contacts.find(key_property, key)
        if contact is None:
            missing.append(key)
        else:
            found.append(shown(account, contact, request.properties, request.properties_with_history))
    return batch_answer(account, started, 200, found, [could_not_get(missing)] if missing else [])


def addressed_contact(account: Account, call: Call) -> Contact:
    """The contact that the path means: by record id, or by the unique property that `idProperty` names."""
    key_property = call.query.get("idProperty")
    if key_property is not None:
        account.schema.key_property(key_property, "read" if call.method == "GET" else "update/upsert")
    contact = account.contacts.find(key_property, call.parameters["id"])
    if contact is None:
        raise errors.not_found()
    return contact


def shown(account: Account, contact: Contact, wanted: Iterable[str] = (), history: Iterable[str] = ()) -> JsonObject:
    """The contact with the properties asked for: null where empty, left out where the account does not know them.

    A history has the present value only: the sandbox does not keep earlier ones.
    """
    names = [name for name in (*DEFAULT_PROPERTIES, *wanted) if name in account.schema]
    body = contact.as_json({name: contact.value(name) for name in names})
    with_history = [name for name in history if name in account.schema]
    if with_history:
        body["propertiesWithHistory"] = {name: _versions(contact, name) for name in with_history}
    return body


def listed(call: Call, name: str) -> Iterator[str]:
    """A list parameter: repeated, or with commas."""
    for value in call.query.getlist(name):
        yield from value.split(",")


def number(call: Call, name: str, default: int) -> int:
    text = call.query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise errors.validation_error(f"{name} {text} is not a whole number")
    return int(text)


def _flag(call: Call, name: str) -> bool:
    return call.query.get(name, "").lower() == "true"


def _versions(contact: Contact, name: str) -> list[JsonObject]:
    value = contact.value(name)
    if value is None:
        return []
    return [{"value": value, "timestamp": iso(contact.updated_at), "sourceType": "INTEGRATION"}]
