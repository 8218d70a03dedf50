"""Search over contacts: filters, sorts and pages, over an index that lags behind the writes."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from fnmatch import translate
from typing import Literal

from pydantic import Field

from hubspot_sandbox import errors
from hubspot_sandbox.account import Account
from hubspot_sandbox.call import Call
from hubspot_sandbox.contact_reads import shown
from hubspot_sandbox.contacts import Contact
from hubspot_sandbox.properties import ContactSchema
from hubspot_sandbox.wire import Answer, Body, JsonObject, read_body

PAGE_MAX = 200
RESULTS_MAX = 10_000
BODY_CHARACTERS_MAX = 3_000
GROUPS_MAX = 5
FILTERS_OF_A_GROUP_MAX = 6
FILTERS_MAX = 18
_TEXT_SEARCHED = ("email", "firstname", "lastname", "phone", "company", "hs_additional_emails")

Operator = Literal[
    "EQ",
    "NEQ",
    "LT",
    "LTE",
    "GT",
    "GTE",
    "BETWEEN",
    "IN",
    "NOT_IN",
    "HAS_PROPERTY",
    "NOT_HAS_PROPERTY",
    "CONTAINS_TOKEN",
    "NOT_CONTAINS_TOKEN",
]
Comparable = float | str
Matches = Callable[[Contact], bool]


class Filter(Body):
    property_name: str
    operator: Operator
    value: str | None = None
    high_value: str | None = None
    values: list[str] | None = None


class FilterGroup(Body):
    filters: list[Filter]


class Sort(Body):
    property_name: str
    direction: Literal["ASCENDING", "DESCENDING"] = "ASCENDING"


class Search(Body):
    filter_groups: list[FilterGroup] = Field(default_factory=list)
    sorts: list[Sort | str] = Field(default_factory=list)
    query: str | None = None
    properties: list[str] = Field(default_factory=list)
    limit: int = 10
    after: str | int | None = None


def search_contacts(account: Account, call: Call) -> Answer:
    wanted = read_body(Search, call.body)
    offset = _offset(wanted)
    _check_size(wanted, call, offset)
    matches = _matcher(wanted, account.schema)
    found = [it for it in account.contacts.index.contacts(account.clock()) if matches(it)]
    for sort in reversed(wanted.sorts):
        found = _sorted(found, Sort(property_name=sort) if isinstance(sort, str) else sort, account.schema)
    page = found[offset : offset + wanted.limit]
    body: JsonObject = {"total": len(found), "results": [shown(account, it, wanted.properties) for it in page]}
    after = offset + len(page)
    if page and after < len(found):
        body["paging"] = call.next_page(str(after))
    return Answer(200, body)


def _offset(wanted: Search) -> int:
    text = str(wanted.after or 0)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise errors.validation_error(f"after {text} is not a whole number")
    return int(text)


def _check_size(wanted: Search, call: Call, offset: int) -> None:
    filters = [len(group.filters) for group in wanted.filter_groups]
    if len(call.body.decode(errors="replace")) > BODY_CHARACTERS_MAX:
        raise errors.validation_error(f"A search has at most {BODY_CHARACTERS_MAX} characters")
    if not 1 <= wanted.limit <= PAGE_MAX:
        raise errors.validation_error(f"limit {wanted.limit} is not between 1 and {PAGE_MAX}")
    if offset + wanted.limit > RESULTS_MAX:
        raise errors.validation_error(f"A search goes no further than {RESULTS_MAX} results")
    if len(filters) > GROUPS_MAX or sum(filters) > FILTERS_MAX or max(filters, default=0) > FILTERS_OF_A_GROUP_MAX:
        raise errors.validation_error(
            f"A search has at most {GROUPS_MAX} filter groups of {FILTERS_OF_A_GROUP_MAX} filters, {FILTERS_MAX} in all"
        )


def _matcher(wanted: Search, schema: ContactSchema) -> Matches:
    groups = [[_filter(it, schema) for it in group.filters] for group in wanted.filter_groups]
    text = (wanted.query or "").strip().lower()

    def matches(contact: Contact) -> bool:
        in_a_group = not groups or any(all(one(contact) for one in group) for group in groups)
        return in_a_group and (not text or any(text in value.lower() for value in _texts(contact)))

    return matches


def _texts(contact: Contact) -> Iterable[str]:
    return (value for name in _TEXT_SEARCHED if (value := contact.value(name)))


def _filter(wanted: Filter, schema: ContactSchema) -> Matches:
    """One filter. A contact without the property matches the negative operators only."""
    name = wanted.property_name
    if name not in schema:
        raise errors.validation_error(f"There was a problem with the request: Property {name} does not exist")
    comparable = _comparison(schema, name)
    match wanted.operator:
        case "HAS_PROPERTY":
            return lambda contact: contact.value(name) is not None
        case "NOT_HAS_PROPERTY":
            return lambda contact: contact.value(name) is None
        case "IN" | "NOT_IN":
            among = {comparable(value) for value in wanted.values or _missing(wanted, "values")}
            return _test(name, comparable, lambda it: it in among, negated=wanted.operator == "NOT_IN")
        case "CONTAINS_TOKEN" | "NOT_CONTAINS_TOKEN":
            token = re.compile(translate((wanted.value or _missing(wanted, "value")).lower()))
            negated = wanted.operator == "NOT_CONTAINS_TOKEN"
            return _test(name, str.lower, lambda it: _has_token(str(it), token), negated=negated)
        case "BETWEEN":
            low = comparable(wanted.value or _missing(wanted, "value"))
            high = comparable(wanted.high_value or _missing(wanted, "highValue"))
            return _test(name, comparable, lambda it: low <= it <= high)  # type: ignore[operator]  # of one type
        case _:
            sought = comparable(wanted.value or _missing(wanted, "value"))
            compare = _COMPARISONS[wanted.operator]
            return _test(name, comparable, lambda it: compare(it, sought), negated=wanted.operator == "NEQ")


def _missing(wanted: Filter, field: str) -> str:
    raise errors.validation_error(f"operator {wanted.operator} requires {field}")


def _test(
    name: str, comparable: Callable[[str], Comparable], holds: Callable[[Comparable], bool], *, negated: bool = False
) -> Matches:
    def matches(contact: Contact) -> bool:
        value = contact.value(name)
        return negated if value is None else holds(comparable(value)) != negated

    return matches


_COMPARISONS: dict[str, Callable[[Comparable, Comparable], bool]] = {
    "EQ": lambda one, other: one == other,
    "NEQ": lambda one, other: one == other,
    "LT": lambda one, other: one < other,  # type: ignore[operator]  # Both are of one type.
    "LTE": lambda one, other: one <= other,  # type: ignore[operator]
    "GT": lambda one, other: one > other,  # type: ignore[operator]
    "GTE": lambda one, other: one >= other,  # type: ignore[operator]
}


def _has_token(text: str, token: re.Pattern[str]) -> bool:
    return any(token.fullmatch(word) for word in (text, *re.split(r"[^\w*]+", text)))


def _comparison(schema: ContactSchema, name: str) -> Callable[[str], Comparable]:
    """How values of this property compare: numbers and instants by size, everything else as text."""
    match schema.get(name).type:
        case "number":
            return _as_number
        case "date" | "datetime":
            return _as_instant
        case _:
            return str.lower


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise errors.validation_error(f"{text} was not a valid number.") from error


def _as_instant(text: str) -> float:
    """Epoch milliseconds."""
    try:
        if text.lstrip("-").isdigit():
            return float(text)
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000
    except (ValueError, OverflowError) as error:
        raise errors.validation_error(f"{text} was not a valid date.") from error


def _sorted(contacts: list[Contact], sort: Sort, schema: ContactSchema) -> list[Contact]:
    """Contacts without the property come last, whichever the direction."""
    name = sort.property_name.removeprefix("-")
    if name not in schema:
        raise errors.validation_error(f"There was a problem with the request: Property {name} does not exist")
    comparable = _comparison(schema, name)
    valued = [(value, it) for it in contacts if (value := it.value(name)) is not None]
    descending = sort.direction == "DESCENDING" or sort.property_name.startswith("-")
    valued.sort(key=lambda pair: comparable(pair[0]), reverse=descending)
    return [it for _, it in valued] + [it for it in contacts if it.value(name) is None]
