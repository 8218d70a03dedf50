"""HubSpot's routes. One set of handlers serves v3, 2026-03 and 2026-09: only the paths differ."""

import re

from starlette.routing import Route

from hubspot_sandbox import contact_reads, contact_writes, errors
from hubspot_sandbox.account import Account
from hubspot_sandbox.batches import batch_answer, check_size
from hubspot_sandbox.call import Call
from hubspot_sandbox.errors import HubSpotError
from hubspot_sandbox.gateway import Gateway, Handler
from hubspot_sandbox.wire import (
    Answer,
    BatchPropertyCreate,
    GroupCreate,
    GroupPatch,
    JsonObject,
    PropertyCreate,
    PropertyPatch,
    read_body,
)

DATED_VERSIONS = ("2026-03", "2026-09")
EVERY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")

_OBJECTS_PATH = re.compile(r"/crm/(?:objects/[\w-]+|v3/objects)/(?P<object_type>[^/]+)")


def routes(gateway: Gateway) -> list[Route]:
    served = [
        Route(path + tail, gateway.endpoint(handler), methods=[method])
        for paths, endpoints in _ENDPOINTS
        for path in paths
        for method, tail, handler in endpoints
    ]
    return [*served, Route("/{path:path}", gateway.endpoint(unknown_path), methods=EVERY_METHOD)]


# Properties and groups


def list_properties(account: Account, _: Call) -> Answer:
    return Answer(200, {"results": [definition.as_json() for definition in account.schema.definitions()]})


def get_property(account: Account, call: Call) -> Answer:
    return Answer(200, account.schema.get(call.parameters["name"]).as_json())


def create_property(account: Account, call: Call) -> Answer:
    wanted = read_body(PropertyCreate, call.body)
    return Answer(201, account.schema.create(wanted, account.clock()).as_json())


def create_properties(account: Account, call: Call) -> Answer:
    started = account.clock()
    inputs = read_body(BatchPropertyCreate, call.body).inputs
    check_size(inputs)
    created: list[JsonObject] = []
    failures: list[JsonObject] = []
    for wanted in inputs:
        try:
            created.append(account.schema.create(wanted, started).as_json())
        except HubSpotError as error:
            failures.append({"status": "error", "context": {"name": [wanted.name]}, **error.body})
    return batch_answer(account, started, 201, created, failures)


def patch_property(account: Account, call: Call) -> Answer:
    changes = read_body(PropertyPatch, call.body)
    return Answer(200, account.schema.patch(call.parameters["name"], changes, account.clock()).as_json())


def list_groups(account: Account, _: Call) -> Answer:
    return Answer(200, {"results": [group.as_json() for group in account.schema.groups()]})


def get_group(account: Account, call: Call) -> Answer:
    return Answer(200, account.schema.group(call.parameters["name"]).as_json())


def create_group(account: Account, call: Call) -> Answer:
    return Answer(201, account.schema.create_group(read_body(GroupCreate, call.body)).as_json())


def patch_group(account: Account, call: Call) -> Answer:
    changes = read_body(GroupPatch, call.body)
    return Answer(200, account.schema.patch_group(call.parameters["name"], changes).as_json())


# Account


def account_details(account: Account, _: Call) -> Answer:
    offset = account.utc_offset()
    hours, minutes = divmod(abs(int(offset.total_seconds())) // 60, 60)
    sign = "-" if offset.total_seconds() < 0 else "+"
    return Answer(
        200,
        {
            "portalId": account.settings.portal_id,
            "accountType": "DEVELOPER_TEST",
            "timeZone": account.settings.time_zone,
            "companyCurrency": "USD",
            "additionalCurrencies": [],
            "utcOffset": f"{sign}{hours:02}:{minutes:02}",
            "utcOffsetMilliseconds": int(offset.total_seconds() * 1000),
            "uiDomain": "app.hubspot.com",
            "dataHostingLocation": "na1",
        },
    )


def unknown_path(_: Account, call: Call) -> Answer:
    found = _OBJECTS_PATH.match(call.path)
    if found and found["object_type"] != "contacts":
        raise errors.unknown_object_type(found["object_type"])
    raise errors.no_such_path(call.path)


Endpoint = tuple[str, str, Handler]

_CONTACTS: list[Endpoint] = [
    ("POST", "/batch/upsert", contact_writes.upsert_batch),
    ("POST", "/batch/create", contact_writes.create_batch),
    ("POST", "/batch/update", contact_writes.update_batch),
    ("POST", "/batch/archive", contact_writes.archive_batch),
    ("POST", "/batch/read", contact_reads.read_batch),
    ("POST", "/merge", contact_writes.merge_contacts),
    ("POST", "/gdpr-delete", contact_writes.erase_contact),
    ("GET", "", contact_reads.list_contacts),
    ("POST", "", contact_writes.create_contact),
    ("GET", "/{id}", contact_reads.get_contact),
    ("PATCH", "/{id}", contact_writes.patch_contact),
    ("DELETE", "/{id}", contact_writes.archive_contact),
]
_PROPERTIES: list[Endpoint] = [
    ("GET", "", list_properties),
    ("POST", "", create_property),
    ("POST", "/batch/create", create_properties),
    ("GET", "/groups", list_groups),
    ("POST", "/groups", create_group),
    ("GET", "/groups/{name}", get_group),
    ("PATCH", "/groups/{name}", patch_group),
    ("GET", "/{name}", get_property),
    ("PATCH", "/{name}", patch_property),
]
_ACCOUNT: list[Endpoint] = [("GET", "/details", account_details)]

_ENDPOINTS: list[tuple[list[str], list[Endpoint]]] = [
    (["/crm/v3/objects/contacts", *(f"/crm/objects/{v}/contacts" for v in DATED_VERSIONS)], _CONTACTS),
    (["/crm/v3/properties/contacts", *(f"/crm/properties/{v}/contacts" for v in DATED_VERSIONS)], _PROPERTIES),
    ([f"/account-info/{v}" for v in ("v3", *DATED_VERSIONS)], _ACCOUNT),
]
