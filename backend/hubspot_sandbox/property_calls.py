"""Property definitions, their groups and their quota."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from hubspot_sandbox.account import Account
from hubspot_sandbox.batches import batch_answer, check_size
from hubspot_sandbox.call import Call
from hubspot_sandbox.errors import HubSpotError, unknown_object_type
from hubspot_sandbox.properties import CUSTOM_PROPERTIES_MAX, CUSTOM_PROPERTIES_OF_ACCOUNT_MAX, PropertyDefinition
from hubspot_sandbox.wire import (
    Answer,
    BatchPropertyCreate,
    BatchPropertyNames,
    BatchPropertyRead,
    GroupCreate,
    GroupPatch,
    JsonObject,
    PropertyCreate,
    PropertyPatch,
    read_body,
)

OTHER_OBJECTS = frozenset(
    [
        "appointments",
        "calls",
        "carts",
        "communications",
        "companies",
        "courses",
        "deals",
        "discounts",
        "emails",
        "feedback_submissions",
        "fees",
        "goal_targets",
        "invoices",
        "leads",
        "line_items",
        "listings",
        "meetings",
        "notes",
        "orders",
        "partner_clients",
        "postal_mail",
        "products",
        "quotes",
        "services",
        "subscriptions",
        "tasks",
        "taxes",
        "tickets",
        "users",
    ]
)
_OBJECT_TYPE_ID = re.compile(r"[02]-\d+")
NON_SENSITIVE = "non_sensitive"
T = TypeVar("T")


def list_properties(account: Account, call: Call) -> Answer:
    definitions: Sequence[PropertyDefinition] = []
    # Nothing sensitive is ever stored in a sandbox.
    if call.query.get("dataSensitivity", NON_SENSITIVE) == NON_SENSITIVE:
        definitions = account.schema.definitions(archived=_archived(call))
    return Answer(200, {"results": [definition.as_json() for definition in definitions]})


def list_of_other_object(_account: Account, call: Call) -> Answer:
    """A sandbox has no objects but contacts, and clients that copy an account ask for the others' definitions."""
    object_type = call.parameters["object_type"]
    if object_type not in OTHER_OBJECTS and not _OBJECT_TYPE_ID.fullmatch(object_type):
        raise unknown_object_type(object_type)
    return Answer(200, {"results": []})


def list_validations(account: Account, call: Call) -> Answer:
    """The rules on the values of an object's properties; contacts are named by their number or their name."""
    object_type = call.parameters["object_type"]
    if object_type not in ("0-1", "contacts"):
        return list_of_other_object(account, call)
    results = [
        {
            "propertyName": name,
            "propertyValidationRules": [
                {"ruleType": rule_type, "ruleArguments": list(arguments), "shouldApplyNormalization": False}
                for rule_type, arguments in rules.items()
            ],
        }
        for name, rules in account.settings.rules.validations.items()
    ]
    return Answer(200, {"results": results})


def list_schemas(_account: Account, _call: Call) -> Answer:
    """Of custom objects: none."""
    return Answer(200, {"results": []})


def get_property(account: Account, call: Call) -> Answer:
    return Answer(200, account.schema.get(call.parameters["name"], archived=_archived(call)).as_json())


def create_property(account: Account, call: Call) -> Answer:
    wanted = read_body(PropertyCreate, call.body)
    return Answer(201, account.schema.create(wanted, account.clock()).as_json())


def patch_property(account: Account, call: Call) -> Answer:
    changes = read_body(PropertyPatch, call.body)
    return Answer(200, account.schema.patch(call.parameters["name"], changes, account.clock()).as_json())


def archive_property(account: Account, call: Call) -> Answer:
    account.archive_property(call.parameters["name"])
    return Answer(204)


def create_properties(account: Account, call: Call) -> Answer:
    inputs = read_body(BatchPropertyCreate, call.body).inputs
    return _batch(
        account, 201, inputs, lambda it: it.name, lambda it: account.schema.create(it, account.clock()).as_json()
    )


def read_properties(account: Account, call: Call) -> Answer:
    request = read_body(BatchPropertyRead, call.body)
    return _batch(
        account,
        200,
        request.inputs,
        lambda it: it.name,
        lambda it: account.schema.get(it.name, archived=request.archived).as_json(),
    )


def archive_properties(account: Account, call: Call) -> Answer:
    inputs = read_body(BatchPropertyNames, call.body).inputs
    check_size(inputs)
    for wanted in inputs:
        if wanted.name in account.schema:
            account.archive_property(wanted.name)
    return Answer(204)


def list_groups(account: Account, _: Call) -> Answer:
    return Answer(200, {"results": [group.as_json() for group in account.schema.groups()]})


def get_group(account: Account, call: Call) -> Answer:
    return Answer(200, account.schema.group(call.parameters["name"]).as_json())


def create_group(account: Account, call: Call) -> Answer:
    return Answer(201, account.schema.create_group(read_body(GroupCreate, call.body)).as_json())


def patch_group(account: Account, call: Call) -> Answer:
    changes = read_body(GroupPatch, call.body)
    return Answer(200, account.schema.patch_group(call.parameters["name"], changes).as_json())


def delete_group(account: Account, call: Call) -> Answer:
    account.schema.delete_group(call.parameters["name"])
    return Answer(204)


def property_quota(account: Account, _: Call) -> Answer:
    usage = account.schema.custom_count()
    contacts = {
        "objectTypeId": "0-1",
        "singularLabel": "Contact",
        "pluralLabel": "Contacts",
        **_share(usage, CUSTOM_PROPERTIES_MAX),
    }
    overall = {
        "overallLimit": CUSTOM_PROPERTIES_OF_ACCOUNT_MAX,
        "overallUsage": usage,
        "overallPercentage": 100 * usage / CUSTOM_PROPERTIES_OF_ACCOUNT_MAX,
    }
    return Answer(200, {**overall, "byObjectType": [contacts]})


def _share(usage: int, limit: int) -> JsonObject:
    return {"limit": limit, "usage": usage, "percentage": 100 * usage / limit}


def _batch(
    account: Account, status: int, inputs: Sequence[T], name: Callable[[T], str], act: Callable[[T], JsonObject]
) -> Answer:
    """Each input by itself; a refused one names its property."""
    started = account.clock()
    check_size(inputs)
    done: list[JsonObject] = []
    failures: list[JsonObject] = []
    for wanted in inputs:
        try:
            done.append(act(wanted))
        except HubSpotError as error:
            failures.append({"status": "error", **error.body, "context": {"name": [name(wanted)]}})
    return batch_answer(account, started, status, done, failures)


def _archived(call: Call) -> bool:
    return call.query.get("archived", "").lower() == "true"
