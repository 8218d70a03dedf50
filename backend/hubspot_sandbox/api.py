"""What is served, endpoint by endpoint. One set of handlers serves v3, 2026-03 and 2026-09: only the paths differ."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.routing import Route

from hubspot_sandbox import (
    account_calls,
    contact_reads,
    contact_writes,
    errors,
    event_calls,
    events,
    property_calls,
    wire,
)
from hubspot_sandbox.account import (
    CONTACTS_READ,
    CONTACTS_WRITE,
    EVENTS_DEFINE,
    EVENTS_SEND,
    SCHEMAS_READ,
    SCHEMAS_WRITE,
    Account,
)
from hubspot_sandbox.call import Call
from hubspot_sandbox.gateway import Admission, Gateway, Handler, Needs
from hubspot_sandbox.search import Search, search_contacts
from hubspot_sandbox.wire import Answer, Body

DATED_VERSIONS = ("2026-03", "2026-09")
EVERY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")

_OBJECTS_PATH = re.compile(r"/crm/(?:objects/[\w-]+|v3/objects)/(?P<object_type>[^/]+)")


@dataclass(frozen=True, slots=True)
class Endpoint:
    method: str
    tail: str
    handler: Handler
    needs: Needs
    answers: dict[int, str]
    """The schema of each success, as `openapi.py` names it; "" for no body."""
    body: type[Body] | None = None
    query: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Area:
    name: str
    paths: tuple[str, ...]
    """The same endpoints are served under each."""
    endpoints: tuple[Endpoint, ...]


def routes(gateway: Gateway) -> list[Route]:
    served = [
        Route(path, gateway.endpoint(endpoint.handler, endpoint.needs), methods=[endpoint.method])
        for _, path, endpoint in served_endpoints()
    ]
    anything = gateway.endpoint(unknown_path, Needs())
    return [*served, Route("/{path:path}", anything, methods=EVERY_METHOD)]


def served_endpoints() -> Iterator[tuple[Area, str, Endpoint]]:
    for area in AREAS:
        for path in area.paths:
            for endpoint in area.endpoints:
                yield area, path + endpoint.tail, endpoint


def unknown_path(_: Account, call: Call) -> Answer:
    found = _OBJECTS_PATH.match(call.path)
    if found and found["object_type"] != "contacts":
        raise errors.unknown_object_type(found["object_type"])
    raise errors.no_such_path(call.path)


def _paths(v3: str, dated: str) -> tuple[str, ...]:
    return (v3, *(dated.format(version=version) for version in DATED_VERSIONS))


_READ = Needs(scopes=(CONTACTS_READ,))
_WRITE = Needs(scopes=(CONTACTS_WRITE,))
_SEE = Needs(scopes=(SCHEMAS_READ,))
_SHAPE = Needs(scopes=(SCHEMAS_WRITE,))
_DEFINE = Needs(scopes=(EVENTS_DEFINE,))
_SEND = Needs(scopes=(EVENTS_SEND,), admission=Admission.EXEMPT)
_SHOWING = ("properties", "propertiesWithHistory", "archived", "associations")
_PAGING = ("limit", "after")

AREAS = (
    Area(
        "Contacts",
        _paths("/crm/v3/objects/contacts", "/crm/objects/{version}/contacts"),
        (
            Endpoint(
                "POST",
                "/batch/upsert",
                contact_writes.upsert_batch,
                _WRITE,
                {200: "UpsertedContacts", 207: "UpsertedContacts"},
                wire.BatchUpsert,
            ),
            Endpoint(
                "POST",
                "/batch/create",
                contact_writes.create_batch,
                _WRITE,
                {201: "WrittenContacts", 207: "WrittenContacts"},
                wire.BatchCreate,
            ),
            Endpoint(
                "POST",
                "/batch/update",
                contact_writes.update_batch,
                _WRITE,
                {200: "WrittenContacts", 207: "WrittenContacts"},
                wire.BatchUpdate,
            ),
            Endpoint(
                "POST",
                "/batch/read",
                contact_reads.read_batch,
                _READ,
                {200: "Contacts", 207: "Contacts"},
                wire.BatchRead,
                ("archived",),
            ),
            Endpoint("POST", "/batch/archive", contact_writes.archive_batch, _WRITE, {204: ""}, wire.BatchIds),
            Endpoint(
                "POST",
                "/search",
                search_contacts,
                Needs(scopes=(CONTACTS_READ,), admission=Admission.SEARCH),
                {200: "FoundContacts"},
                Search,
            ),
            Endpoint("POST", "/merge", contact_writes.merge_contacts, _WRITE, {200: "Contact"}, wire.Merge),
            Endpoint("POST", "/gdpr-delete", contact_writes.erase_contact, _WRITE, {204: ""}, wire.GdprDelete),
            Endpoint("GET", "", contact_reads.list_contacts, _READ, {200: "ContactPage"}, None, (*_PAGING, *_SHOWING)),
            Endpoint("POST", "", contact_writes.create_contact, _WRITE, {201: "WrittenContact"}, wire.ContactWrite),
            Endpoint(
                "GET", "/{id}", contact_reads.get_contact, _READ, {200: "Contact"}, None, (*_SHOWING, "idProperty")
            ),
            Endpoint(
                "PATCH",
                "/{id}",
                contact_writes.patch_contact,
                _WRITE,
                {200: "WrittenContact"},
                wire.ContactWrite,
                ("idProperty",),
            ),
            Endpoint("DELETE", "/{id}", contact_writes.archive_contact, _WRITE, {204: ""}),
        ),
    ),
    Area(
        "Properties",
        _paths("/crm/v3/properties/contacts", "/crm/properties/{version}/contacts"),
        (
            Endpoint(
                "GET",
                "",
                property_calls.list_properties,
                _SEE,
                {200: "Properties"},
                None,
                ("archived", "dataSensitivity"),
            ),
            Endpoint("POST", "", property_calls.create_property, _SHAPE, {201: "Property"}, wire.PropertyCreate),
            Endpoint(
                "POST",
                "/batch/create",
                property_calls.create_properties,
                _SHAPE,
                {201: "PropertyBatch", 207: "PropertyBatch"},
                wire.BatchPropertyCreate,
            ),
            Endpoint(
                "POST",
                "/batch/read",
                property_calls.read_properties,
                _SEE,
                {200: "PropertyBatch", 207: "PropertyBatch"},
                wire.BatchPropertyRead,
            ),
            Endpoint(
                "POST", "/batch/archive", property_calls.archive_properties, _SHAPE, {204: ""}, wire.BatchPropertyNames
            ),
            Endpoint("GET", "/groups", property_calls.list_groups, _SEE, {200: "Groups"}),
            Endpoint("POST", "/groups", property_calls.create_group, _SHAPE, {201: "Group"}, wire.GroupCreate),
            Endpoint("GET", "/groups/{name}", property_calls.get_group, _SEE, {200: "Group"}),
            Endpoint("PATCH", "/groups/{name}", property_calls.patch_group, _SHAPE, {200: "Group"}, wire.GroupPatch),
            Endpoint("DELETE", "/groups/{name}", property_calls.delete_group, _SHAPE, {204: ""}),
            Endpoint("GET", "/{name}", property_calls.get_property, _SEE, {200: "Property"}, None, ("archived",)),
            Endpoint("PATCH", "/{name}", property_calls.patch_property, _SHAPE, {200: "Property"}, wire.PropertyPatch),
            Endpoint("DELETE", "/{name}", property_calls.archive_property, _SHAPE, {204: ""}),
        ),
    ),
    Area(
        "Properties of other objects",
        _paths("/crm/v3/properties", "/crm/properties/{version}"),
        (
            Endpoint(
                "GET",
                "/{object_type}",
                property_calls.list_of_other_object,
                Needs(),
                {200: "Properties"},
                None,
                ("archived", "dataSensitivity"),
            ),
            Endpoint("GET", "/{object_type}/groups", property_calls.list_of_other_object, Needs(), {200: "Groups"}),
        ),
    ),
    Area(
        "Property validations",
        _paths("/crm/v3/property-validations", "/crm/property-validations/{version}"),
        (Endpoint("GET", "/{object_type}", property_calls.list_validations, Needs(), {200: "Validations"}),),
    ),
    Area(
        "Custom objects",
        (
            "/crm/v3/schemas",
            "/crm-object-schemas/v3/schemas",
            *(f"/crm-object-schemas/{version}/schemas" for version in DATED_VERSIONS),
        ),
        (Endpoint("GET", "", property_calls.list_schemas, Needs(), {200: "Properties"}, None, ("archived",)),),
    ),
    Area(
        "Limits",
        _paths("/crm/v3/limits/custom-properties", "/crm/limits/{version}/custom-properties"),
        (
            Endpoint(
                "GET", "", property_calls.property_quota, Needs(scopes=(CONTACTS_READ, CONTACTS_WRITE)), {200: "Quota"}
            ),
        ),
    ),
    Area(
        "Account",
        _paths("/account-info/v3", "/account-info/{version}"),
        (
            Endpoint("GET", "/details", account_calls.account_details, Needs(), {200: "AccountDetails"}),
            Endpoint("GET", "/api-usage/daily/private-apps", account_calls.daily_usage, Needs(), {200: "DailyUsage"}),
        ),
    ),
    Area(
        "Tokens",
        ("/oauth/v2/private-apps/get/access-token-info",),
        (Endpoint("POST", "", account_calls.token_info, Needs(), {200: "TokenScopes"}, wire.TokenInfo),),
    ),
    Area(
        "Event definitions",
        _paths("/events/v3/event-definitions", "/events/{version}/event-definitions"),
        (
            Endpoint(
                "GET",
                "",
                event_calls.list_definitions,
                _DEFINE,
                {200: "EventDefinitions"},
                None,
                (*_PAGING, "searchString"),
            ),
            Endpoint(
                "POST", "", event_calls.define_event, _DEFINE, {201: "EventDefinition"}, events.EventDefinitionCreate
            ),
            Endpoint("GET", "/{name}", event_calls.get_definition, _DEFINE, {200: "EventDefinition"}),
            Endpoint(
                "PATCH",
                "/{name}",
                event_calls.patch_definition,
                _DEFINE,
                {200: "EventDefinition"},
                events.EventDefinitionPatch,
            ),
            Endpoint("DELETE", "/{name}", event_calls.delete_definition, _DEFINE, {204: ""}),
            Endpoint(
                "POST",
                "/{name}/property",
                event_calls.add_property,
                _DEFINE,
                {201: "EventDefinition"},
                events.EventProperty,
            ),
            Endpoint(
                "PATCH",
                "/{name}/property/{property}",
                event_calls.patch_property,
                _DEFINE,
                {200: "EventDefinition"},
                events.EventPropertyPatch,
            ),
            Endpoint("DELETE", "/{name}/property/{property}", event_calls.delete_property, _DEFINE, {204: ""}),
        ),
    ),
    Area(
        "Event sends",
        _paths("/events/v3/send", "/events/{version}/send"),
        (
            Endpoint("POST", "", event_calls.send_event, _SEND, {204: ""}, events.EventSend),
            Endpoint("POST", "/batch", event_calls.send_events, _SEND, {204: ""}, events.BatchEventSend),
        ),
    ),
    Area(
        "Event occurrences",
        _paths("/events/v3/events", "/events/event-occurrences/{version}"),
        (
            Endpoint(
                "GET",
                "",
                event_calls.list_occurrences,
                _DEFINE,
                {200: "Occurrences"},
                None,
                (*_PAGING, "objectId", "eventType"),
            ),
        ),
    ),
)
