"""The property group and the properties that the events need: planned, printed, then created. Nothing is deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hubspot_sync.account import Account, read_account
from hubspot_sync.answer import NAME_CHARS_MAX, Answer, parsed
from hubspot_sync.client import HubSpotClient
from hubspot_sync.errors import Refused
from hubspot_sync.event import Catalog, ContactProperty, PropertyGroup, PropertyType
from hubspot_sync.lack import Lack, words_of_not_unique
from hubspot_sync.limits import call_in_control_slot
from hubspot_sync.redaction import redact
from sqlalchemy_outbox.gate.gate import Gate

Body = TypeVar("Body", bound=BaseModel)

# HubSpot wants a form field for each type.
_FIELD_TYPES = {
    PropertyType.STRING: "text",
    PropertyType.NUMBER: "number",
    PropertyType.DATE: "date",
    PropertyType.DATETIME: "date",
    PropertyType.BOOL: "booleancheckbox",
    PropertyType.ENUMERATION: "select",
}
_BOOL_OPTIONS = ("true", "false")


@dataclass(frozen=True, slots=True)
class MissingOptions:
    """An enumeration that exists and lacks options; a person's own options stay."""

    property: ContactProperty
    missing: tuple[str, ...]
    existing: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What provisioning would do. `differences` are a person's to mend, each in words."""

    group: PropertyGroup | None = None
    properties: tuple[ContactProperty, ...] = ()
    options: tuple[MissingOptions, ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return self == Plan()

    def lines(self) -> list[str]:
        group = [f"create group {self.group.name}"] if self.group else []
        properties = [
            f"create property {property_.name} ({property_.type}{', unique' if property_.is_unique else ''})"
            for property_ in self.properties
        ]
        options = [
            f"add to {lacking.property.name} the options {', '.join(lacking.missing)}" for lacking in self.options
        ]
        differences = [f"cannot mend: {difference}" for difference in self.differences]
        return [*group, *properties, *options, *differences] or ["nothing to do: group and properties are as declared"]


def _named(value: object) -> object:
    """The entries that have a name and are in use: what somebody else's look like is no matter of ours."""
    if not isinstance(value, list):
        return value
    entries = (entry for entry in value if isinstance(entry, dict) and isinstance(entry.get("name"), str))
    return [entry for entry in entries if entry.get("archived") is not True]


def _object(value: object) -> object:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> object:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


_Flag = Annotated[bool, BeforeValidator(lambda value: value is True or value == "true")]


class _Modification(BaseModel):
    is_value_read_only: _Flag = Field(default=False, alias="readOnlyValue")
    is_options_read_only: _Flag = Field(default=False, alias="readOnlyOptions")


class _Property(BaseModel):
    """Read as leniently as any answer: HubSpot leaves fields out, or null."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    name: str
    type: Annotated[str, BeforeValidator(lambda value: redact.shown(str(value), NAME_CHARS_MAX))] = "unknown"
    modification: Annotated[_Modification, BeforeValidator(_object)] = Field(
        default_factory=_Modification, alias="modificationMetadata"
    )
    has_unique_value: _Flag = Field(default=False, alias="hasUniqueValue")
    options: Annotated[list[dict[str, Any]], BeforeValidator(_objects)] = Field(default_factory=list)


class _Group(BaseModel):
    name: str


class _PropertyList(BaseModel):
    results: Annotated[list[_Property], BeforeValidator(_named)]


class _GroupList(BaseModel):
    results: Annotated[list[_Group], BeforeValidator(_named)]


async def look_at_account(client: HubSpotClient, gate: Gate) -> Account:
    """The account that would be provisioned; raise Refused or NoAnswer."""
    answer = _accepted(await call_in_control_slot(gate, client.account_details))
    account = read_account(answer)
    if account is None:
        raise Refused(answer)
    return account


async def plan_provisioning(client: HubSpotClient, gate: Gate, catalog: Catalog) -> Plan:
    """Compare what the events need with what the account has; raise Refused or NoAnswer."""
    # In a thread: an account may have thousands of properties.
    groups = (
        await asyncio.to_thread(_parsed, _GroupList, await call_in_control_slot(gate, client.list_groups))
    ).results
    listed = await call_in_control_slot(gate, client.list_properties)
    properties = (await asyncio.to_thread(_parsed, _PropertyList, listed)).results
    existing = {property_.name: property_ for property_ in properties}
    needed = [property_ for property_ in catalog.properties if not property_.is_standard]
    present = [(property_, existing[property_.name]) for property_ in needed if property_.name in existing]
    return Plan(
        group=None if catalog.group.name in {group.name for group in groups} else catalog.group,
        properties=tuple(property_ for property_ in needed if property_.name not in existing),
        options=tuple(
            it
            for declared, found in present
            if not found.modification.is_options_read_only
            and declared.type == found.type
            and (it := _missing_options(declared, found)) is not None
        ),
        differences=tuple(text for pair in present for text in _differences(*pair)),
    )


def read_lack(answer: Answer, catalog: Catalog) -> Lack:
    """What the account lacks, by the answer to `list_properties`; raise Refused when it is no such list."""
    existing = {found.name: found for found in _parsed(_PropertyList, answer).results}
    ours = [declared.name for declared in catalog.properties]
    lack = Lack(
        missing=frozenset(name for name in ours if name not in existing),
        read_only=frozenset(
            name for name in ours if name in existing and existing[name].modification.is_value_read_only
        ),
    )
    if lack.of([catalog.key.name, catalog.email.name]).names:
        return replace(lack, key_trouble=lack.reason)
    if not existing[catalog.key.name].has_unique_value:
        return replace(lack, key_trouble=words_of_not_unique(catalog.key.name))
    return lack


async def carry_out(plan: Plan, client: HubSpotClient, gate: Gate, catalog: Catalog) -> AsyncIterator[str]:
    """Do what the plan says, and yield each line once it is done. What someone created meanwhile counts as done."""
    if (group := plan.group) is not None:
        definition = {"name": group.name, "label": group.label}
        _created(await call_in_control_slot(gate, partial(client.create_group, definition)))
        yield f"created group {group.name}"
    for property_ in plan.properties:
        _created(
            await call_in_control_slot(gate, partial(client.create_property, _definition(property_, catalog.group)))
        )
        yield f"created property {property_.name}"
    for lacking in plan.options:
        changes = {"options": [*lacking.existing, *_options(lacking.missing, start=len(lacking.existing))]}
        _accepted(await call_in_control_slot(gate, partial(client.update_property, lacking.property.name, changes)))
        yield f"added to {lacking.property.name} the options {', '.join(lacking.missing)}"


def _parsed(model: type[Body], answer: Answer) -> Body:
    body = parsed(model, _accepted(answer).body)
    if body is None:
        raise Refused(answer)
    return body


def _accepted(answer: Answer) -> Answer:
    if not answer.is_success:
        raise Refused(answer)
    return answer


def _created(answer: Answer) -> None:
    if answer.status != 409:
        _accepted(answer)


def _definition(property_: ContactProperty, group: PropertyGroup) -> dict[str, object]:
    definition: dict[str, object] = {
        "name": property_.name,
        "label": property_.label,
        "type": property_.type.value,
        "fieldType": _FIELD_TYPES[property_.type],
        "groupName": group.name,
    }
    if property_.is_unique:
        definition["hasUniqueValue"] = True
    if property_.type is PropertyType.BOOL:
        definition["options"] = _options(_BOOL_OPTIONS)
    if property_.options:
        definition["options"] = _options(property_.options)
    return definition


def _options(values: Sequence[str], start: int = 0) -> list[dict[str, object]]:
    return [
        {"label": value.replace("_", " ").capitalize(), "value": value, "displayOrder": order, "hidden": False}
        for order, value in enumerate(values, start)
    ]


def _missing_options(declared: ContactProperty, existing: _Property) -> MissingOptions | None:
    values = [option.get("value") for option in existing.options]
    missing = tuple(option for option in declared.options if option not in values)
    return MissingOptions(declared, missing, tuple(existing.options)) if missing else None


def _differences(declared: ContactProperty, existing: _Property) -> list[str]:
    differences = []
    if existing.type != declared.type:
        differences.append(
            f"{declared.name} is of type {existing.type}, and the events set a {declared.type}: "
            "rename or delete that property in HubSpot, then provision again"
        )
    if declared.is_unique and not existing.has_unique_value:
        differences.append(
            f"{declared.name} is not unique, and uniqueness can only be chosen at creation: "
            "delete that property in HubSpot, then provision again"
        )
    if existing.modification.is_value_read_only:
        differences.append(
            f"{declared.name} is read-only, so no event can set it: "
            "rename or delete that property in HubSpot, then provision again"
        )
    if existing.modification.is_options_read_only and (lacking := _missing_options(declared, existing)) is not None:
        differences.append(
            f"{declared.name} lacks the options {', '.join(lacking.missing)}, and its options are read-only: "
            "rename or delete that property in HubSpot, then provision again"
        )
    return differences
