"""What travels: request bodies on the way in, instants on the way out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from hubspot_sandbox import errors

JsonObject = dict[str, object]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers; without a body it is empty, as with a 204."""

    status: int
    body: Mapping[str, object] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


# HubSpot reads JSON numbers and booleans as their text. What it makes of null is unknown, so null is refused here:
# better that a client which sends it finds out on a laptop.
PropertyValues = dict[str, str | bool | int | float]


class Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class ContactWrite(Body):
    properties: PropertyValues


class TracedInput(ContactWrite):
    object_write_trace_id: str | None = None


class CreateInput(TracedInput):
    pass


class UpsertInput(TracedInput):
    id: str
    id_property: str | None = None


class UpdateInput(UpsertInput):
    pass


class BatchCreate(Body):
    inputs: list[CreateInput]


class BatchUpsert(Body):
    inputs: list[UpsertInput]


class BatchUpdate(Body):
    inputs: list[UpdateInput]


class IdInput(Body):
    id: str


class BatchIds(Body):
    inputs: list[IdInput]


class BatchRead(BatchIds):
    properties: list[str] = Field(default_factory=list)
    properties_with_history: list[str] = Field(default_factory=list)
    id_property: str | None = None


class Merge(Body):
    primary_object_id: str
    object_id_to_merge: str


class GdprDelete(Body):
    object_id: str
    id_property: str | None = None


class Option(Body):
    label: str
    value: str
    description: str = ""
    display_order: int = -1
    hidden: bool = False


class PropertyCreate(Body):
    name: str
    label: str
    type: str
    field_type: str
    group_name: str
    description: str = ""
    options: list[Option] = Field(default_factory=list)
    display_order: int = -1
    has_unique_value: bool = False
    hidden: bool = False
    form_field: bool = False


class BatchPropertyCreate(Body):
    inputs: list[PropertyCreate]


class PropertyName(Body):
    name: str


class BatchPropertyNames(Body):
    inputs: list[PropertyName]


class BatchPropertyRead(BatchPropertyNames):
    archived: bool = False


class PropertyPatch(Body):
    label: str | None = None
    type: str | None = None
    field_type: str | None = None
    group_name: str | None = None
    description: str | None = None
    options: list[Option] | None = None
    display_order: int | None = None
    hidden: bool | None = None
    form_field: bool | None = None


class GroupCreate(Body):
    name: str
    label: str
    display_order: int = -1


class GroupPatch(Body):
    label: str | None = None
    display_order: int | None = None


class TokenInfo(Body):
    token_key: str


B = TypeVar("B", bound=Body)


def read_body(model: type[B], body: bytes) -> B:
    """The body as `model`, or HubSpot's 400 for JSON it cannot read."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        missing = [str(problem["loc"][-1]) for problem in problems if problem["type"] == "missing"]
        if missing:
            raise errors.required_fields_missing(missing) from error
        where = ".".join(str(part) for part in problems[0]["loc"]) or "body"
        raise errors.invalid_json(f"{problems[0]['msg']} (at {where})") from error


def text_of(value: str | bool | int | float) -> str:
    """A property value as HubSpot stores it: text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@lru_cache(maxsize=4096)  # The same instant is written several times in every answer.
def iso(instant: float) -> str:
    """Epoch seconds as HubSpot writes instants: UTC, milliseconds, Z."""
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
