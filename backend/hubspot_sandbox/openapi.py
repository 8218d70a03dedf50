"""What the sandbox serves, as an OpenAPI 3.1 document: from the endpoints, and from the schemas of answers below."""

from functools import cache

from pydantic.json_schema import models_json_schema

from hubspot_sandbox.api import Endpoint, served_endpoints
from hubspot_sandbox.wire import JsonObject

_REFERENCE = "#/components/schemas/{model}"


@cache
def openapi_document() -> JsonObject:
    paths: dict[str, dict[str, JsonObject]] = {}
    for area, path, endpoint in served_endpoints():
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(area.name, path, endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "HubSpot sandbox", "version": "1", "description": "What the sandbox serves of HubSpot."},
        "paths": paths,
        "security": [{"token": []}],
        "components": {
            "schemas": {**_request_schemas(), **ANSWERS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(tag: str, path: str, endpoint: Endpoint) -> JsonObject:
    refusal = {"description": "Refused", "content": _json("Error")}
    answers: JsonObject = {str(status): _answer(schema) for status, schema in endpoint.answers.items()}
    operation: JsonObject = {
        "tags": [tag],
        "operationId": f"{endpoint.method} {path}",
        "parameters": [*_path_parameters(path), *map(_query_parameter, endpoint.query)],
        "responses": {**answers, "4XX": refusal},
    }
    if endpoint.body:
        operation["requestBody"] = {"required": True, "content": _json(endpoint.body.__name__)}
    return operation


def _answer(schema: str) -> JsonObject:
    return {"description": "Done", **({"content": _json(schema)} if schema else {})}


def _json(schema: str) -> JsonObject:
    return {"application/json": {"schema": _ref(schema)}}


def _ref(schema: str) -> JsonObject:
    return {"$ref": _REFERENCE.format(model=schema)}


def _path_parameters(path: str) -> list[JsonObject]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": it, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for it in names]


def _query_parameter(name: str) -> JsonObject:
    return {"name": name, "in": "query", "schema": _QUERY.get(name, {"type": "string"})}


def _request_schemas() -> dict[str, JsonObject]:
    models = [endpoint.body for _, _, endpoint in served_endpoints() if endpoint.body]
    _, schema = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)], by_alias=True, ref_template=_REFERENCE
    )
    definitions: dict[str, JsonObject] = schema["$defs"]
    return definitions


def _object(required: JsonObject, optional: JsonObject | None = None) -> JsonObject:
    """Exactly these fields: an answer with another one does not fit its schema."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }


def _list(of: JsonObject) -> JsonObject:
    return {"type": "array", "items": of}


def _batch(of: JsonObject) -> JsonObject:
    return _object(
        {
            "status": {"enum": ["COMPLETE"]},
            "results": _list(of),
            "requestedAt": _INSTANT,
            "startedAt": _INSTANT,
            "completedAt": _INSTANT,
        },
        {"numErrors": _COUNT, "errors": _list(_ref("Error"))},
    )


def _page(of: JsonObject) -> JsonObject:
    return _object({"results": _list(of)}, {"total": _COUNT, "paging": _PAGING})


_TEXT: JsonObject = {"type": "string"}
_FLAG: JsonObject = {"type": "boolean"}
_COUNT: JsonObject = {"type": "integer"}
_NUMBER: JsonObject = {"type": "number"}
_INSTANT: JsonObject = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
_RECORD_ID: JsonObject = {"type": "string", "pattern": r"^\d+$"}
_TEXTS: JsonObject = _list(_TEXT)
_PAGING = _object({"next": _object({"after": _TEXT, "link": _TEXT})})
_QUERY: dict[str, JsonObject] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 100},
    "archived": _FLAG,
}

_CONTACT: JsonObject = {
    "id": _RECORD_ID,
    "properties": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
    "createdAt": _INSTANT,
    "updatedAt": _INSTANT,
    "archived": _FLAG,
}
_VERSION = _object({"value": _TEXT, "timestamp": _INSTANT, "sourceType": _TEXT})
_HISTORY: JsonObject = {"type": "object", "additionalProperties": _list(_VERSION)}
_TRACE_ID: JsonObject = {"objectWriteTraceId": _TEXT}
_OPTION = _object({"label": _TEXT, "value": _TEXT, "description": _TEXT, "displayOrder": _COUNT, "hidden": _FLAG})
_USAGE: JsonObject = {"limit": _COUNT, "usage": _COUNT, "percentage": _NUMBER}

ANSWERS: dict[str, JsonObject] = {
    "Error": {
        "type": "object",
        "required": ["status", "message"],
        "properties": {
            "status": {"enum": ["error"]},
            "message": _TEXT,
            "correlationId": _TEXT,
            "category": _TEXT,
            "subCategory": _TEXT,
            "errorType": _TEXT,
            "policyName": _TEXT,
            "requestId": _TEXT,
            "context": {"type": "object", "additionalProperties": _TEXTS},
            "links": {"type": "object", "additionalProperties": _TEXT},
            "errors": _list(
                _object(
                    {"message": _TEXT},
                    {"code": _TEXT, "context": {"type": "object", "additionalProperties": _TEXTS}},
                )
            ),
        },
        "additionalProperties": False,
    },
    "Contact": _object(_CONTACT, {"archivedAt": _INSTANT, "propertiesWithHistory": _HISTORY}),
    "Contacts": _batch(_ref("Contact")),
    "ContactPage": _page(_ref("Contact")),
    "FoundContacts": _page(_ref("Contact")),
    "WrittenContact": _object(_CONTACT),
    "WrittenContacts": _batch(_object(_CONTACT, _TRACE_ID)),
    "UpsertedContacts": _batch(_object({**_CONTACT, "new": _FLAG}, _TRACE_ID)),
    "Property": _object(
        {
            "name": _TEXT,
            "label": _TEXT,
            "type": {"enum": ["string", "number", "date", "datetime", "enumeration", "bool", "phone_number"]},
            "fieldType": _TEXT,
            "groupName": _TEXT,
            "description": _TEXT,
            "options": _list(_OPTION),
            "displayOrder": _COUNT,
            "hasUniqueValue": _FLAG,
            "hidden": _FLAG,
            "formField": _FLAG,
            "hubspotDefined": _FLAG,
            "calculated": _FLAG,
            "externalOptions": _FLAG,
            "archived": _FLAG,
            "dataSensitivity": _TEXT,
            "createdAt": _INSTANT,
            "updatedAt": _INSTANT,
            "modificationMetadata": {"type": "object", "additionalProperties": _FLAG},
        },
        {"archivedAt": _INSTANT},
    ),
    "Properties": _object({"results": _list(_ref("Property"))}),
    "PropertyBatch": _batch(_ref("Property")),
    "Group": _object({"name": _TEXT, "label": _TEXT, "displayOrder": _COUNT, "archived": _FLAG}),
    "Groups": _object({"results": _list(_ref("Group"))}),
    "Validations": _object(
        {
            "results": _list(
                _object(
                    {
                        "propertyName": _TEXT,
                        "propertyValidationRules": _list(
                            _object(
                                {"ruleType": _TEXT, "ruleArguments": _list(_TEXT), "shouldApplyNormalization": _FLAG}
                            )
                        ),
                    }
                )
            )
        }
    ),
    "Quota": _object(
        {
            "overallLimit": _COUNT,
            "overallUsage": _COUNT,
            "overallPercentage": _NUMBER,
            "byObjectType": _list(
                _object({"objectTypeId": _TEXT, "singularLabel": _TEXT, "pluralLabel": _TEXT, **_USAGE})
            ),
        }
    ),
    "AccountDetails": _object(
        {
            "portalId": _COUNT,
            "accountType": {"enum": ["STANDARD", "SANDBOX", "DEVELOPER_TEST", "APP_DEVELOPER"]},
            "timeZone": _TEXT,
            "companyCurrency": _TEXT,
            "additionalCurrencies": _TEXTS,
            "utcOffset": _TEXT,
            "utcOffsetMilliseconds": _COUNT,
            "uiDomain": _TEXT,
            "dataHostingLocation": _TEXT,
        },
        {"portalName": _TEXT, "createdAt": _INSTANT},
    ),
    "DailyUsage": _object(
        {
            "results": _list(
                _object(
                    {
                        "name": _TEXT,
                        "usageLimit": _COUNT,
                        "currentUsage": _COUNT,
                        "collectedAt": _INSTANT,
                        "fetchStatus": {"enum": ["SUCCESS", "CACHED", "FAILURE", "NOTFOUND", "TIMEOUT"]},
                    },
                    {"resetsAt": _INSTANT},
                )
            )
        }
    ),
    "TokenScopes": _object({"userId": _COUNT, "hubId": _COUNT, "appId": _COUNT, "scopes": _TEXTS}),
    "EventDefinition": _object(
        {
            "id": _RECORD_ID,
            "name": _TEXT,
            "fullyQualifiedName": _TEXT,
            "objectTypeId": _TEXT,
            "labels": _object({"singular": _TEXT}),
            "description": _TEXT,
            "primaryObject": {"enum": ["CONTACT", "COMPANY", "DEAL", "TICKET"]},
            "archived": _FLAG,
            "createdAt": _INSTANT,
            "updatedAt": _INSTANT,
            "properties": _list(
                _object({"name": _TEXT, "label": _TEXT, "type": _TEXT, "description": _TEXT, "options": _list(_OPTION)})
            ),
        }
    ),
    "EventDefinitions": _page(_ref("EventDefinition")),
    "Occurrence": _object(
        {
            "id": _TEXT,
            "eventType": _TEXT,
            "objectType": {"enum": ["CONTACT"]},
            "objectId": _RECORD_ID,
            "occurredAt": _INSTANT,
            "properties": {"type": "object", "additionalProperties": _TEXT},
        }
    ),
    "Occurrences": _page(_ref("Occurrence")),
}
