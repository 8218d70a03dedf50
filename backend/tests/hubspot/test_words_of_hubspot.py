"""Texts of HubSpot's are cut, redacted and matched in time that grows as they do, and a cut lets nothing through."""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator

import pytest

import hubspot_sync
from hubspot_sync.redaction import _CHARS_READ_MAX, Redaction
from sqlalchemy_outbox import reason

ROOMS = ("answer", "account", "classification", "redaction", "contact", "exchange")
# What a pattern is likely to begin to match, over and over.
WORDS = [
    *(
        "9",
        "1 already has that value",
        "a@",
        "@a",
        "ada@example.com ",
        "+1",
        "+1 (",
        "+49 30 123456 ",
        "pat-na1-",
        "pat-",
    ),
    *("Bearer ", "propertyName=", "propertyName=a", "Existing ID: ", "Existing ID: 1", "a", "-", " ", "/a", "\n", "."),
    *("Unable to perform ", "Unable to perform a by non-unique b property c", "Cannot set PropertyValueCoordinates{"),
    "\r\n\r\nHTTP/1.1 200",
]


def patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    modules = [importlib.import_module(f"hubspot_sync.{room}") for room in ROOMS]
    for module in (*modules, reason):
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                yield f"{module.__name__}.{name}", value


def seconds(work: Callable[[], object]) -> float:
    def once() -> float:
        began = time.thread_time()
        work()
        return time.thread_time() - began

    return min(once() for _ in range(3))


def test_the_patterns_are_those_of_every_room_that_reads_what_hubspot_says() -> None:
    assert set(ROOMS) <= {module.name for module in pkgutil.iter_modules(hubspot_sync.__path__)}
    assert len(dict(patterns())) >= 15


@pytest.mark.parametrize("pattern", [value for _, value in patterns()], ids=[name for name, _ in patterns()])
def test_pattern_takes_time_as_the_text_grows(pattern: re.Pattern[str]) -> None:
    """A quadratic one takes minutes for these, and four times as long for twice the text."""
    for word in WORDS:
        for text in (word * (30_000 // len(word)), word * (30_000 // len(word)) + "\0"):
            subject = text.encode() if isinstance(pattern.pattern, bytes) else text
            for find in (pattern.search, pattern.match, pattern.fullmatch):
                assert seconds(lambda find=find, subject=subject: find(subject)) < 0.1, (word, find)  # type: ignore[misc]
            assert seconds(lambda subject=subject: pattern.sub(subject[:0], subject)) < 0.2, word  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "secret"),
    [
        ([], "ada.lovelace@example.com"),
        ([], "+49 30 123456 78"),
        ([], "pat-na1-0123-4567"),
        ([], "Bearer secret-of-hubspot"),
        (["Ada Augusta King Lovelace"], "Ada Augusta King Lovelace"),
        (["030 123456"], "030 123456"),
        (["lovelace", "Ada lovelace of Ockham"], "Ada lovelace of Ockham"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
@pytest.mark.parametrize("shrinking", ["someone.with.a.long.name@example.com ", "word ", "x "])
def test_cut_of_a_long_text_lets_no_part_of_what_names_a_person_through(
    values: list[str], secret: str, shrinking: str
) -> None:
    """Wherever the cut falls: what stands before it may shrink to nothing, so that it is seen."""
    redaction = Redaction(values, token="pat-na1-secret")
    for shift in range(1, len(secret) + 2):
        start = _CHARS_READ_MAX - shift
        front = shrinking * (start // len(shrinking))
        front += " " * (start - len(front))
        shown = redaction.shown(f"{front}{secret} " + "x " * 10_000, 20_000)
        words = shown[len(redaction(front).rstrip()) :].strip()
        assert words in ("", "[address]", "[phone]", "[token]", "[personal]", "Bearer", "Bearer [token]"), words


@pytest.mark.parametrize(
    ("secret", "stands_for_it"),
    [
        ("ada@example.com", "[address]"),
        ("+49 (30) 123-456", "[phone]"),
        ("pat-na1-0123-4567", "[token]"),
        ("Bearer of-no-known-form", "Bearer [token]"),
    ],
)
def test_what_names_a_person_is_taken_out_where_it_stands_alone(secret: str, stands_for_it: str) -> None:
    assert Redaction()(secret) == stands_for_it
    assert Redaction()(f"refused: {secret} again") == f"refused: {stands_for_it} again"


def test_text_without_a_space_is_not_shown_beyond_what_is_read() -> None:
    assert Redaction().shown("a" * 9000 + "@example.com", 1000) == ""


def test_shown_text_is_storable_and_bounded() -> None:
    assert Redaction(["Lovelace"]).shown("a\0\ud800 Lovelace", 100) == "a\\x00\\ud800 [personal]"
    assert Redaction().shown("word " * 1000, 12) == "word word wo"
