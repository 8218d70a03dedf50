"""Payloads whose values are all plain are read without their class, by a plan that its annotations make once.

Most payloads are, as programs write them. Of any other the class says what it sets, or why it is refused. Of a plain
one it would say the same (tests/hubspot/test_plain_payload.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hubspot_sync.contact_property import ContactProperty, PropertyType, UnwritableValue, written
from hubspot_sync.field_types import WHOLE_NUMBER_MAX, Plain, whole_number_within

_Read = Callable[[Any], str | None]
_CHOOSING = (PropertyType.ENUMERATION, PropertyType.STRING)


@dataclass(frozen=True, slots=True)
class PlainFields:
    """`given` is what the event's mere existence sets; `fields` stand in the order of the class."""

    given: Mapping[str, str]
    fields: tuple[_Field, ...]

    def properties_of(self, payload: object) -> dict[str, str] | None:
        """What the payload sets, in HubSpot's notation; None where a value is not plain."""
        if type(payload) is not dict:
            return None
        properties = {**self.given}
        for name, property_name, is_optional, read in self.fields:
            value = payload.get(name)
            if value is None and is_optional:
                continue
            if (text := read(value)) is None:
                return None
            if property_name is not None:
                properties[property_name] = text
        return properties


# Its name, that of the property which it sets, whether it may be missing, and how its values are read.
_Field = tuple[str, str | None, bool, _Read]


def plain_fields_of(
    event: type[BaseModel], base: type[BaseModel], sets: Mapping[ContactProperty, object]
) -> PlainFields | None:
    """The plan for an event class under `base`; None of one that does more than declare fields of types known here."""
    declared = event.mro()[: event.mro().index(base)]
    if event.model_config != base.model_config or any(_has_code(class_, base) for class_ in declared):
        return None
    try:
        hints = get_type_hints(event, include_extras=True)
        given = {property_.name: written(property_, value) for property_, value in sets.items()}
    except (NameError, TypeError, UnwritableValue):
        return None
    fields = [_field(name, info, hints[name]) for name, info in event.model_fields.items()]
    known = tuple(field for field in fields if field is not None)
    return PlainFields(given, known) if len(known) == len(fields) else None


def _has_code(class_: type, base: type) -> bool:
    """Whether the class reads payloads in a way of its own, as by a validator."""
    return not issubclass(class_, base) or any(
        callable(member) or hasattr(member, "__get__")
        for name, member in vars(class_).items()
        if not name.startswith(("__", "_abc_")) or name in ("__init__", "__new__", "__get_pydantic_core_schema__")
    )


def _field(name: str, info: FieldInfo, hint: Any) -> _Field | None:
    type_, said, is_optional = _unwrapped(hint)
    is_renamed = info.alias is not None or info.validation_alias is not None
    has_default = info.default_factory is not None or not (info.is_required() or info.default is None)
    if is_renamed or has_default or is_optional == info.is_required():
        return None
    properties = [one for one in said if isinstance(one, ContactProperty)]
    types = [one for one in said if isinstance(one, Plain)]
    if len(properties) > 1 or len(types) > 1:
        return None
    property_ = properties[0] if properties else None
    others = [one for one in said if one is not property_]
    if types:
        read = _read_of_type(types[0], others[others.index(types[0]) + 1 :], property_)
    else:
        read = None if others else _read_of_choice(type_, property_)
    return None if read is None else (name, None if property_ is None else property_.name, is_optional, read)


def _unwrapped(hint: Any) -> tuple[Any, list[Any], bool]:
    """The type, all that its annotations say, the innermost first, and whether None may stand in its place."""
    said: list[Any] = []
    is_optional = False
    while True:
        if get_origin(hint) is Annotated:
            said[:0] = hint.__metadata__
            hint = hint.__origin__
        elif get_origin(hint) in (Union, UnionType) and len(of := get_args(hint)) == 2 and NoneType in of:
            is_optional = True
            hint = of[0] if of[1] is NoneType else of[1]
        else:
            return hint, said, is_optional


def _read_of_type(type_: Plain, bounds: Sequence[Any], property_: ContactProperty | None) -> _Read | None:
    if property_ is not None and (property_.type is not type_.of or property_.options):
        return None
    if not bounds:
        return type_.read
    limits = _limits(bounds) if type_.of is PropertyType.NUMBER else None
    return None if limits is None else whole_number_within(*limits)


def _limits(bounds: Sequence[Any]) -> tuple[int, int] | None:
    """The least and the greatest number that these allow; None where they say anything else."""
    lowest, highest = -WHOLE_NUMBER_MAX, WHOLE_NUMBER_MAX
    for bound in (one for said in bounds for one in (said.metadata if isinstance(said, FieldInfo) else [said])):
        match bound:
            case Ge(int() as least):
                lowest = max(lowest, least)
            case Le(int() as most):
                highest = min(highest, most)
            case _:
                return None
    return lowest, highest


def _read_of_choice(type_: Any, property_: ContactProperty | None) -> _Read | None:
    """Of one of given texts: an enumeration's or a Literal's."""
    if isinstance(type_, type) and issubclass(type_, StrEnum) and all(str(member) == member.value for member in type_):
        texts = {member.value for member in type_}
    elif get_origin(type_) is Literal and all(type(text) is str for text in get_args(type_)):
        texts = set(get_args(type_))
    else:
        return None
    if property_ is not None:
        if property_.type not in _CHOOSING:
            return None
        texts &= set(property_.options) or texts
    # An empty text is left out of what is sent.
    texts.discard("")
    return lambda value: value if type(value) is str and value in texts else None
