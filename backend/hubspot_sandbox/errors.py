"""Every error body HubSpot answers with, in one place.

A handler raises `HubSpotError`; the gateway adds the correlation id. Inside a 207 the same error becomes a row.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class HubSpotError(Exception):
    """HubSpot refused the request (or, inside a 207, one input)."""

    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)

    def as_body(self, correlation_id: str) -> dict[str, object]:
        return {"status": "error", **self.body, "correlationId": correlation_id}

    def as_row(self, trace_id: str) -> dict[str, object]:
        """The error as an entry of a 207's `errors`, naming the input it belongs to."""
        context = self.body.get("context", {})
        named = {**(context if isinstance(context, Mapping) else {}), "objectWriteTraceId": [trace_id]}
        return {"status": "error", **self.body, "context": named}


@dataclass(frozen=True, slots=True)
class ValueProblem:
    """One property value that HubSpot refuses: `code` is stable, `message` is for people."""

    property: str
    code: str
    message: str


def validation_error(message: str, **more: object) -> HubSpotError:
    return HubSpotError(400, {"message": message, "category": "VALIDATION_ERROR", **more})


def property_values_invalid(problems: Sequence[ValueProblem]) -> HubSpotError:
    listed = [
        {"isValid": False, "message": problem.message, "error": problem.code, "name": problem.property}
        for problem in problems
    ]
    # As observed, errors[] names each property once while the message lists every value refused, so it may be the
    # shorter of the two.
    first_of_property = {problem.property: problem for problem in reversed(problems)}
    return validation_error(
        f"Property values were not valid: {json.dumps(listed, separators=(',', ':'))}",
        errors=[
            {"message": p.message, "code": p.code, "context": {"propertyName": [p.property]}}
            for p in reversed(first_of_property.values())
        ],
    )


def value_taken(portal_id: int, property_name: str, value: str, writer: str, holder: str) -> HubSpotError:
    """The 400 for a unique value of another record; on a create, `writer` is a record that will never exist."""
    message = (
        f"Cannot set PropertyValueCoordinates{{portalId={portal_id}, "
        f"objectTypeId=ObjectTypeId{{legacyObjectType=CONTACT}}, propertyName={property_name}, value={value}}} "
        f"on {writer}. {holder} already has that value."
    )
    detail = {
        "message": message,
        "code": "CONFLICTING_UNIQUE_VALUE",
        "context": {"propertyName": [property_name]},
    }
    return validation_error(message, errors=[detail])


def contact_exists(existing_id: str) -> HubSpotError:
    return HubSpotError(
        409,
        {
            "message": f"Contact already exists. Existing ID: {existing_id}",
            "category": "CONFLICT",
            "context": {"existingId": [existing_id]},
        },
    )


def required_property_missing(code: str, names: Sequence[str]) -> HubSpotError:
    problems = [ValueProblem(name, code, f'Property "{name}" is required') for name in names]
    return property_values_invalid(problems)


def blocked_email() -> HubSpotError:
    return validation_error("email has been GDPR blacklisted")


def duplicate_ids(ids: Sequence[str]) -> HubSpotError:
    return validation_error(
        f"Duplicate IDs found in batch input: [{', '.join(ids)}]. IDs must be unique",
        context={"ids": list(ids)},
    )


def batch_size(count: int, limit: int) -> HubSpotError:
    return validation_error(f"A batch holds 1 to {limit} inputs, this one has {count}")


def non_unique_key(verb: str, property_name: str) -> HubSpotError:
    return validation_error(f"Unable to perform {verb} by non-unique 0-1 property {property_name}")


def required_fields_missing(fields: Iterable[str]) -> HubSpotError:
    return validation_error(f"Some required fields were not set: [{', '.join(fields)}]")


def invalid_json(reason: str) -> HubSpotError:
    return HubSpotError(400, {"message": f"Invalid input JSON on line 1, column 1: {reason}"})


def unknown_object_type(name: str) -> HubSpotError:
    return HubSpotError(400, {"message": f"Unable to infer object type from: {name}"})


def unauthenticated() -> HubSpotError:
    return HubSpotError(
        401,
        {
            "message": "Authentication credentials not found. This API supports OAuth 2.0 authentication and you can "
            "find more details at https://developers.hubspot.com/docs/methods/auth/oauth-overview",
            "category": "INVALID_AUTHENTICATION",
        },
        {"x-hubspot-auth-failure": "401 Unauthorized"},
    )


def expired() -> HubSpotError:
    return HubSpotError(
        401,
        {
            "message": "The OAuth token used to make this call expired 42 second(s) ago.",
            "category": "EXPIRED_AUTHENTICATION",
            "context": {"expire time": ["42"]},
        },
        {"x-hubspot-auth-failure": "401 Unauthorized"},
    )


def missing_scopes(scopes: Sequence[str], named_in: str = "errors") -> HubSpotError:
    named = {
        "message": "One or more of the following scopes are required.",
        "context": {"requiredGranularScopes": list(scopes)},
    }
    links = {"scopes": "https://developers.hubspot.com/scopes"}
    if named_in == "context":
        return HubSpotError(403, {**named, "category": "MISSING_SCOPES", "links": links})
    return HubSpotError(
        403,
        {
            "message": "This app hasn't been granted all required scopes to make this call. Read more about required "
            "scopes here: https://developers.hubspot.com/scopes.",
            "category": "MISSING_SCOPES",
            "errors": [named],
            "links": links,
        },
    )


def not_found(message: str = "resource not found") -> HubSpotError:
    return HubSpotError(404, {"message": message, "category": "OBJECT_NOT_FOUND"}, {"X-HubSpot-NotFound": "true"})


def no_such_path(path: str) -> HubSpotError:
    return HubSpotError(404, {"message": f"No resource at {path}"}, {"X-HubSpot-NotFound": "true"})


def property_exists(name: str) -> HubSpotError:
    return HubSpotError(
        409,
        {
            "message": f"A property named '{name}' already exists.",
            "category": "OBJECT_ALREADY_EXISTS",
            "subCategory": "Properties.PROPERTY_WITH_NAME_EXISTS",
            "context": {"name": [name]},
        },
    )


def property_in_use(name: str) -> HubSpotError:
    message = f"Property {name} is in use and cannot be deleted"
    return validation_error(message, subCategory="PropertyValidationError.CANNOT_DELETE_PROPERTY_IN_USE")


def group_with_properties(name: str) -> HubSpotError:
    """As observed, the error proper is JSON in the text of `message`."""
    sub_category = "PropertyGroupError.GROUP_WITH_ACTIVE_PROPERTIES"
    nested = {"message": f"Group {name} has active properties", "subCategory": sub_category}
    return validation_error(json.dumps(nested), subCategory=sub_category)


def event_exists(name: str) -> HubSpotError:
    return HubSpotError(409, {"message": f"Event {name} already exists", "category": "OBJECT_ALREADY_EXISTS"})


def group_exists(name: str) -> HubSpotError:
    return HubSpotError(
        409,
        {
            "message": f"A property group named '{name}' already exists.",
            "category": "OBJECT_ALREADY_EXISTS",
            "subCategory": "Properties.PROPERTY_GROUP_WITH_NAME_EXISTS",
        },
    )


def conflict() -> HubSpotError:
    """A 409 as a batch gets it that lost a race: it does not say which input, nor which contact."""
    return HubSpotError(409, {"message": "Contact already exists.", "category": "CONFLICT"})


def record_full() -> HubSpotError:
    return HubSpotError(414, {"message": "Cannot have more than 250 identities on a profile"})


def throttled_input() -> HubSpotError:
    return HubSpotError(429, {"message": "You have reached your secondly limit.", "category": "RATE_LIMITS"})


def failed_input() -> HubSpotError:
    """What goes wrong on HubSpot's side with one input; it has no category."""
    return HubSpotError(500, {"message": "internal error"})


def payment_required() -> HubSpotError:
    return HubSpotError(402, {"message": "This account's subscription has lapsed", "category": "PAYMENT_REQUIRED"})


def forbidden() -> HubSpotError:
    return HubSpotError(
        403, {"message": "This account's subscription does not include this feature", "category": "FORBIDDEN"}
    )


def unknown_limit() -> HubSpotError:
    return HubSpotError(
        429,
        {"message": "You have reached your concurrent limit.", "errorType": "RATE_LIMIT", "policyName": "CONCURRENT"},
    )


def locked() -> HubSpotError:
    return HubSpotError(423, {"message": "The resource is locked; try again in 2 seconds", "category": "LOCKED"})


def migrating(retry_after_seconds: int) -> HubSpotError:
    return HubSpotError(
        477,
        {"message": "This account is being migrated between data centres", "category": "MIGRATION_IN_PROGRESS"},
        {"Retry-After": str(retry_after_seconds)},
    )


def wrong_hublet() -> HubSpotError:
    return HubSpotError(488, {"message": "This account is served by api-eu1.hubapi.com"})


def ten_secondly_limit() -> HubSpotError:
    return HubSpotError(
        429,
        {
            "message": "You have reached your ten_secondly_rolling limit.",
            "errorType": "RATE_LIMIT",
            "policyName": "TEN_SECONDLY_ROLLING",
        },
    )


def daily_limit(request_id: str) -> HubSpotError:
    return HubSpotError(
        429,
        {
            "message": "You have reached your daily limit.",
            "errorType": "RATE_LIMIT",
            "policyName": "DAILY",
            "requestId": request_id,
        },
    )


def secondly_limit(*, with_policy_name: bool = False) -> HubSpotError:
    """The search limit's body; as recorded it has neither `policyName` nor `errorType`."""
    policy = {"policyName": "SECONDLY"} if with_policy_name else {}
    return HubSpotError(429, {"message": "You have reached your secondly limit.", "category": "RATE_LIMITS", **policy})
