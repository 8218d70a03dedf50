"""A payload that is read at a glance sets what its class says; of any other the class alone decides."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.events import CATALOG, EMAIL, Stage
from hubspot_sync.event import (
    ContactProperty,
    EmailAddress,
    Instant,
    LifecycleEvent,
    PropertyType,
    Reference,
    UnwritableValue,
    WholeNumber,
)
from hubspot_sync.field_types import trimmed
from hubspot_sync.plain_payload import PlainFields, plain_fields_of

EXAMPLES = int(os.environ.get("PLAIN_PAYLOAD_EXAMPLES", "50"))
TEXT = ContactProperty("text", "Text", PropertyType.STRING)
NUMBER = ContactProperty("number", "Number", PropertyType.NUMBER)
CHOICE = ContactProperty("choice", "Choice", PropertyType.ENUMERATION, options=("a", "b"))
ANY_CHOICE = ContactProperty("any_choice", "Any choice", PropertyType.ENUMERATION)
MOMENT = ContactProperty("moment", "Moment", PropertyType.DATETIME)


class Letter(StrEnum):
    A = "a"
    B = "b"
    C = "c"
    NONE = ""


class Whispering(StrEnum):
    A = "a"

    def __str__(self) -> str:
        return "b"


class Everything(LifecycleEvent):
    event_type = "everything"
    sets = {TEXT: "given", NUMBER: 7}  # noqa: RUF012  # A ClassVar of the base.

    reference: Annotated[Reference, TEXT]
    small: Annotated[Annotated[WholeNumber, Field(ge=-3, le=3)] | None, NUMBER] = None
    any_number: WholeNumber | None = None
    letter: Annotated[Letter | None, CHOICE] = None
    any_letter: Annotated[Letter | None, ANY_CHOICE] = None
    literal: Annotated[Literal["a", "c"] | None, CHOICE] = None
    address: Annotated[EmailAddress | None, EMAIL] = None
    moment: Annotated[Instant | None, MOMENT] = None


class Renamed(LifecycleEvent):
    reference: Annotated[Reference, TEXT] = Field(alias="other")


class Forbidding(LifecycleEvent):
    model_config = ConfigDict(extra="forbid")

    reference: Annotated[Reference, TEXT]


class WithDefault(LifecycleEvent):
    reference: Annotated[Reference, TEXT] = "a"


class WithoutDefault(LifecycleEvent):
    reference: Annotated[Reference | None, TEXT]


class NoneOfItself(LifecycleEvent):
    reference: Annotated[Reference, TEXT] = None  # type: ignore[assignment]  # What is tried.


class Validated(LifecycleEvent):
    reference: Annotated[Reference, TEXT]

    @field_validator("reference")
    @classmethod
    def _shout(cls, value: str) -> str:
        return value.upper()


class ValidatedAsAWhole(LifecycleEvent):
    reference: Annotated[Reference, TEXT]

    @model_validator(mode="before")
    @classmethod
    def _shout(cls, payload: Any) -> Any:
        return {"reference": "SHOUTED"}


class Shouted(LifecycleEvent):
    reference: Annotated[Reference, TEXT, AfterValidator(str.upper)]


class Shorter(LifecycleEvent):
    reference: Annotated[Annotated[Reference, Field(max_length=3)], TEXT]


class StrictNumber(LifecycleEvent):
    number: Annotated[Annotated[WholeNumber, Field(strict=True, ge=0)], NUMBER]


class MultipleOfThree(LifecycleEvent):
    number: Annotated[Annotated[WholeNumber, Field(multiple_of=3)], NUMBER]


class TextAsNumber(LifecycleEvent):
    reference: Annotated[Reference, NUMBER]


class TextOfOptions(LifecycleEvent):
    reference: Annotated[Reference, CHOICE]


class Whispered(LifecycleEvent):
    choice: Annotated[Whispering, CHOICE]


class Spoken(LifecycleEvent):
    reference: Annotated[Reference, TEXT]

    def contact_properties(self) -> dict[str, str]:
        return {"spoken": self.reference}


class Unwritable(LifecycleEvent):
    sets = {NUMBER: "seven"}  # noqa: RUF012  # As above.

    reference: Annotated[Reference, TEXT]


class BuiltAnew(LifecycleEvent):
    reference: Annotated[Reference, TEXT]

    def __init__(self, **values: Any) -> None:
        super().__init__(**{name: f"{value}!" for name, value in values.items()})


OF_ITS_OWN = [
    *(Renamed, Forbidding, WithDefault, WithoutDefault, NoneOfItself, Validated, ValidatedAsAWhole, Shouted, Shorter),
    *(StrictNumber, MultipleOfThree, TextAsNumber, TextOfOptions, Whispered, Spoken, Unwritable, BuiltAnew),
]
PLAIN = [*CATALOG.events, Everything]

REFERENCES = ["a", "driver-1", "Ä b", " a", "a ", "", " ", "a\u200b", "\ufeffa", "a\x1c", "a\0", "\ud800", "a" * 255]
REFERENCES += ["a" * 256, f"{'a' * 255} ", "\u00a0", "😀", "a\u00adb"]
ADDRESSES = ["ada@example.com", "Ada@Example.COM", "ada", "a b@example.com", "ä@example.com", "ada@example.com "]
ADDRESSES += ["İ@x.de", "12"]
ADDRESSES += [f"{'a' * 250}@b.c", f"{'a' * 251}@b.c", "ada@example.com\0", "a@@b.c", "a@b@c.d"]
DAYS = ["2026-11-24", "2024-02-29", "2026-02-29", "2026-02-30", "2026-04-31", "2026-04-30", "2026-12-31", "2026-00-10"]
DAYS += ["2026-13-01", "0000-01-01", "0001-01-01", "9999-12-31", "2026-1-1", "２０２６-11-24"]
TIMES = ["18:00:00", "18:00", "23:59:59", "24:00:00", "18:60:00", "18:00:60", "00:00:00"]
FRACTIONS = ["", ".1", ".12", ".123", ".1239", ".123999", ".1234567", ".999999", ",123", "123", "."]
OFFSETS = ["Z", "z", "+00:00", "-00:00", "+01:00", "+00", "", "+0000", " Z"]
NUMBERS = [0, 1, -1, 3, 4, -4, 120, 2**53, 2**53 + 1, -(2**53) - 1, 2**70, 1e300, float("nan")]
NUMBERS += [True, False, 12.0, 12.5]
CHOICES = [*Stage, *Letter, "otp", "apple", "Apple", "apple ", "x"]
OTHERS = [None, [], {}, ["a"], {"a": 1}]


def plan_of(event: type[LifecycleEvent]) -> PlainFields | None:
    return plain_fields_of(event, LifecycleEvent, event.sets)


def said_by_class(event: type[LifecycleEvent], payload: object) -> list[tuple[str, str]] | None:
    try:
        return list(event.model_validate(payload).contact_properties().items())
    except (ValidationError, UnwritableValue):
        return None


def instants() -> list[str]:
    """Of the parts of an instant each is tried beside usual ones."""
    parts = (DAYS, ["T", "t", " "], TIMES, FRACTIONS, OFFSETS)
    usual = ["2026-11-24", "T", "18:00:00", ".123", "Z"]
    return ["".join([*usual[:n], part, *usual[n + 1 :]]) for n in range(len(parts)) for part in parts[n]]


ODD = [*REFERENCES, *ADDRESSES, *instants(), *NUMBERS, *map(str, CHOICES), *OTHERS]
VALUES = st.sampled_from(ODD) | st.text(max_size=5) | st.integers()
USUAL = ["earning", "otp", "apple", "a", 2, "ada@example.com", "2026-11-24T18:00:00.123Z", "driver-1"]


def plain_payload(event: type[LifecycleEvent]) -> dict[str, object]:
    """One in which each field has a usual value that it may have."""
    return {name: next(value for value in USUAL if is_taken(event, name, value)) for name in event.model_fields}


def is_taken(event: type[LifecycleEvent], name: str, value: object) -> bool:
    try:
        event.model_validate({name: value})
    except ValidationError as error:
        return all(problem["loc"] != (name,) for problem in error.errors())
    return True


def assert_alike(event: type[LifecycleEvent], plan: PlainFields, payload: dict[str, object]) -> None:
    at_a_glance = plan.properties_of(payload)
    if at_a_glance is not None:
        assert list(at_a_glance.items()) == said_by_class(event, payload)


@pytest.mark.parametrize("event", PLAIN)
def test_what_is_read_at_a_glance_is_what_the_class_says(event: type[LifecycleEvent]) -> None:
    """Each field in turn has each odd value, beside others that are plain."""
    plan, plain = plan_of(event), plain_payload(event)
    assert plan is not None
    assert plan.properties_of(plain) is not None
    for name in event.model_fields:
        assert_alike(event, plan, {one: value for one, value in plain.items() if one != name})
        for value in ODD:
            assert_alike(event, plan, {**plain, name: value})


@settings(max_examples=EXAMPLES, deadline=None, database=None)
@given(event=st.sampled_from(PLAIN), data=st.data())
def test_it_is_so_of_fields_that_are_odd_together(event: type[LifecycleEvent], data: st.DataObject) -> None:
    plan, plain = plan_of(event), plain_payload(event)
    assert plan is not None
    odd = data.draw(st.dictionaries(st.sampled_from([*event.model_fields, "unknown"]), VALUES, max_size=3))
    assert_alike(event, plan, plain | odd)


@pytest.mark.parametrize("event", OF_ITS_OWN)
def test_class_that_does_more_than_declare_known_types_reads_its_payloads_itself(event: type[LifecycleEvent]) -> None:
    assert plan_of(event) is None


def test_class_whose_annotations_cannot_be_found_reads_its_payloads_itself() -> None:
    class Here(StrEnum):
        A = "a"

    class Local(LifecycleEvent):
        here: Annotated[Here, CHOICE]

    assert plan_of(Local) is None
    assert said_by_class(Local, {"here": "a"}) == [("choice", "a")]


@pytest.mark.parametrize("event", CATALOG.events)
def test_what_programs_write_is_read_at_a_glance(event: type[LifecycleEvent]) -> None:
    plan = plan_of(event)
    assert plan is not None
    numbers = dict.fromkeys(["amount", "new_balance", "lifetime_earned", "redeemed_count"], 120)
    texts = dict.fromkeys(["user_id", "session_id", "redemption_id", "merchant_id"], "7b1f8f6e-6f0c")
    chosen = {
        "email": "Ada@example.com",
        "phone": None,
        "stage": "earning",
        "auth_provider": "otp",
        "pass_type": "apple",
    }
    for instant in ("2026-11-24T18:00:00Z", "2026-11-24T18:00:00.123456+00:00", "2026-12-31T23:59:59.123Z"):
        instants = {name: instant for name in event.model_fields if name.endswith("_at")}
        assert plan.properties_of({**numbers, **texts, **chosen, **instants, "unknown": []}) is not None


@pytest.mark.parametrize("payload", [None, [], "text", 1, {}])
def test_payload_without_its_required_fields_is_the_classs_matter(payload: object) -> None:
    plan = plan_of(Everything)
    assert plan is not None
    assert plan.properties_of(payload) is None


def test_nothing_that_is_blank_is_printable_but_the_space() -> None:
    printable = [character for character in map(chr, range(0x110000)) if character.isprintable()]
    assert [character for character in printable if trimmed(character) == ""] == [" "]
