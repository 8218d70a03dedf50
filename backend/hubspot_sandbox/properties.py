"""The contact schema: property definitions and groups, as a fresh account has them and as clients extend it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hubspot_sandbox import errors
from hubspot_sandbox.errors import ValueProblem
from hubspot_sandbox.values import TYPES, InvalidValue, ValueRule, stored_form
from hubspot_sandbox.wire import (
    GroupCreate,
    GroupPatch,
    JsonObject,
    Option,
    PropertyCreate,
    PropertyPatch,
    PropertyValues,
    iso,
    text_of,
)

UNIQUE_PROPERTIES_MAX = 10
CUSTOM_PROPERTIES_MAX = 1_000
CUSTOM_PROPERTIES_OF_ACCOUNT_MAX = 10_000

_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_CALCULATED = "calculation_equation"
_FIELD_TYPES: dict[str, frozenset[str]] = {
    "string": frozenset({"text", "textarea", "html", "file", "phonenumber", _CALCULATED}),
    "number": frozenset({"number", _CALCULATED}),
    "date": frozenset({"date"}),
    "datetime": frozenset({"date"}),
    "enumeration": frozenset({"select", "radio", "checkbox", "booleancheckbox", _CALCULATED}),
    "bool": frozenset({"booleancheckbox", _CALCULATED}),
    "phone_number": frozenset({"phonenumber", "text"}),
}
_TYPES_THAT_CAN_BE_UNIQUE = frozenset({"string", "number"})


@dataclass(frozen=True, slots=True)
class PropertyDefinition:
    name: str
    label: str
    type: str
    field_type: str
    group_name: str
    created_at: float
    updated_at: float
    description: str = ""
    options: tuple[Option, ...] = ()
    display_order: int = -1
    has_unique_value: bool = False
    hidden: bool = False
    form_field: bool = False
    hubspot_defined: bool = False
    read_only_value: bool = False
    archived_at: float | None = None

    @property
    def is_key(self) -> bool:
        """Whether `idProperty` may name it."""
        return self.has_unique_value or self.name == "email"

    @property
    def rule(self) -> ValueRule:
        return ValueRule(
            self.type,
            multiple=self.field_type == "checkbox",
            options=frozenset(option.value for option in self.options),
            is_email=self.name == "email",
        )

    def as_json(self) -> JsonObject:
        archived_at = {} if self.archived_at is None else {"archivedAt": iso(self.archived_at)}
        return {
            **archived_at,
            "name": self.name,
            "label": self.label,
            "type": self.type,
            "fieldType": self.field_type,
            "groupName": self.group_name,
            "description": self.description,
            "options": [option.model_dump(by_alias=True) for option in self.options],
            "displayOrder": self.display_order,
            "hasUniqueValue": self.has_unique_value,
            "hidden": self.hidden,
            "formField": self.form_field,
            "hubspotDefined": self.hubspot_defined,
            "calculated": self.field_type == _CALCULATED,
            "externalOptions": False,
            "archived": self.archived_at is not None,
            "dataSensitivity": "non_sensitive",
            "createdAt": iso(self.created_at),
            "updatedAt": iso(self.updated_at),
            "modificationMetadata": {
                "archivable": not self.hubspot_defined,
                "readOnlyDefinition": self.hubspot_defined,
                "readOnlyOptions": False,
                "readOnlyValue": self.read_only_value,
            },
        }


@dataclass(frozen=True, slots=True)
class PropertyGroup:
    name: str
    label: str
    display_order: int = -1

    def as_json(self) -> JsonObject:
        return {"name": self.name, "label": self.label, "displayOrder": self.display_order, "archived": False}


class ContactSchema:
    """The property definitions and groups of contacts; unknown properties are refused until created."""

    def __init__(self, definitions: Iterable[PropertyDefinition], groups: Iterable[PropertyGroup]) -> None:
        self._definitions = {definition.name: definition for definition in definitions}
        self._groups = {group.name: group for group in groups}
        self._rules = {name: definition.rule for name, definition in self._definitions.items()}
        self._archived: dict[str, PropertyDefinition] = {}
        self.unique_properties: set[str] = set()

    # Values

    def stored_values(self, values: PropertyValues) -> dict[str, str]:
        """The values in HubSpot's stored form, or `InvalidValues` with every one refused."""
        stored: dict[str, str] = {}
        problems: list[ValueProblem] = []
        for name, value in values.items():
            try:
                stored[name] = self._stored_value(name, text_of(value))
            except InvalidValue as refusal:
                problems.append(ValueProblem(name, refusal.code, refusal.message))
        if problems:
            raise InvalidValues(problems)
        return stored

    def _stored_value(self, name: str, text: str) -> str:
        definition = self._definitions.get(name)
        if definition is None:
            raise InvalidValue("PROPERTY_DOESNT_EXIST", f'Property "{name}" does not exist')
        if definition.read_only_value:
            message = f'"{name}" is a read only property; its value cannot be set.'
            raise InvalidValue("READ_ONLY_VALUE", message)
        return stored_form(self._rules[name], text)

    def key_property(self, name: str, verb: str) -> str:
        """`name`, if contacts can be addressed by it; else HubSpot's 400."""
        definition = self._definitions.get(name)
        if definition is None or not definition.is_key:
            raise errors.non_unique_key(verb, name)
        return name

    def key_properties(self) -> set[str]:
        """All that `idProperty` may name."""
        return {"email", *self.unique_properties}

    def rank(self, name: str, value: str) -> int:
        """Where `value` stands among the options of `name`, later stages higher; one since removed comes first."""
        values = [option.value for option in self._definitions[name].options]
        return values.index(value) if value in values else -1

    def appends(self, name: str, value: str) -> bool:
        """Whether writing `value` adds to the checkboxes already ticked."""
        return value.startswith(";") and self._rules[name].multiple

    # Properties

    def __contains__(self, name: object) -> bool:
        return name in self._definitions

    def definitions(self, *, archived: bool = False) -> list[PropertyDefinition]:
        return list((self._archived if archived else self._definitions).values())

    def get(self, name: str, *, archived: bool = False) -> PropertyDefinition:
        definition = (self._archived if archived else self._definitions).get(name)
        if definition is None:
            raise errors.not_found(f"Property {name} does not exist")
        return definition

    def custom_count(self) -> int:
        return sum(not definition.hubspot_defined for definition in self._definitions.values())

    def archive(self, name: str, now: float) -> None:
        definition = self.get(name)
        if definition.hubspot_defined:
            raise errors.property_in_use(name)
        del self._definitions[name]
        self._archived[name] = replace(definition, archived_at=now)

    def create(self, wanted: PropertyCreate, now: float) -> PropertyDefinition:
        """A new property, or an archived one restored with the definition posted."""
        if wanted.name in self._definitions:
            raise errors.property_exists(wanted.name)
        if not _NAME.fullmatch(wanted.name):
            raise errors.validation_error(
                f"Property name {wanted.name!r} must be lower-case, start with a letter and hold only letters, "
                "digits and underscores"
            )
        if self.custom_count() >= CUSTOM_PROPERTIES_MAX:
            raise errors.validation_error(f"Contacts already have {CUSTOM_PROPERTIES_MAX} custom properties")
        if wanted.has_unique_value and wanted.name not in self.unique_properties:
            self._check_another_unique(wanted)
        definition = PropertyDefinition(
            **wanted.model_dump(exclude={"options"}),
            options=tuple(wanted.options),
            created_at=now,
            updated_at=now,
        )
        return self._keep(definition)

    def patch(self, name: str, changes: PropertyPatch, now: float) -> PropertyDefinition:
        """Change the definition; name, uniqueness and sensitivity are accepted and kept as they are."""
        definition = self.get(name)
        wanted = changes.model_dump(exclude_none=True, exclude={"options"})
        options = definition.options if changes.options is None else tuple(changes.options)
        return self._keep(replace(definition, **wanted, options=options, updated_at=now))

    def _keep(self, definition: PropertyDefinition) -> PropertyDefinition:
        _check_type(definition)
        _check_options(definition)
        if definition.group_name not in self._groups:
            raise errors.validation_error(f"Property group {definition.group_name} does not exist")
        self._definitions[definition.name] = definition
        self._archived.pop(definition.name, None)
        self._rules[definition.name] = definition.rule
        if definition.has_unique_value:
            self.unique_properties.add(definition.name)
        return definition

    def _check_another_unique(self, wanted: PropertyCreate) -> None:
        if wanted.type not in _TYPES_THAT_CAN_BE_UNIQUE:
            raise errors.validation_error(f"A property of type {wanted.type} cannot have unique values")
        if len(self.unique_properties) >= UNIQUE_PROPERTIES_MAX:
            raise errors.validation_error(f"Contacts already have {UNIQUE_PROPERTIES_MAX} unique properties")

    # Groups

    def groups(self) -> list[PropertyGroup]:
        return list(self._groups.values())

    def group(self, name: str) -> PropertyGroup:
        if name not in self._groups:
            raise errors.not_found(f"Property group {name} does not exist")
        return self._groups[name]

    def create_group(self, wanted: GroupCreate) -> PropertyGroup:
        if wanted.name in self._groups:
            raise errors.group_exists(wanted.name)
        self._groups[wanted.name] = PropertyGroup(**wanted.model_dump())
        return self._groups[wanted.name]

    def delete_group(self, name: str) -> None:
        self.group(name)
        if any(definition.group_name == name for definition in self._definitions.values()):
            raise errors.group_with_properties(name)
        del self._groups[name]

    def patch_group(self, name: str, changes: GroupPatch) -> PropertyGroup:
        self._groups[name] = replace(self.group(name), **changes.model_dump(exclude_none=True))
        return self._groups[name]


@dataclass(eq=False)
class InvalidValues(Exception):
    """Some values of one input are refused."""

    problems: list[ValueProblem]


def _check_type(definition: PropertyDefinition) -> None:
    if definition.type not in TYPES:
        raise errors.validation_error(f"{definition.type} is not one of {', '.join(sorted(TYPES))}")
    if definition.field_type not in _FIELD_TYPES[definition.type]:
        raise errors.validation_error(
            f"fieldType {definition.field_type} does not fit type {definition.type}; "
            f"one of {', '.join(sorted(_FIELD_TYPES[definition.type]))} does"
        )


def _check_options(definition: PropertyDefinition) -> None:
    values = [option.value for option in definition.options]
    if definition.type == "enumeration" and not values and not definition.hubspot_defined:
        raise errors.validation_error(f"Enumeration {definition.name} needs options")
    if len(set(values)) < len(values):
        raise errors.validation_error(f"Two options of {definition.name} have the same value")
