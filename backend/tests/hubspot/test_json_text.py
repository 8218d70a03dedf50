"""JSON is read as the standard library reads it, whatever it holds, and what is written reads back as it was."""

from __future__ import annotations

import json
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from hubspot_sync.json_text import read_json, write_json

EXAMPLES = int(os.environ.get("JSON_TEXT_EXAMPLES", "50"))
NUMBERS = [
    "NaN",
    "-NaN",
    "nan",
    "Infinity",
    "-Infinity",
    "-0",
    "-0.0",
    "0e5",
    "-0e5",
    "1e999",
    "-1.5e400",
    "1e22",
    "01",
]
NUMBERS += ["123456789012345678901234567890", "18446744073709551616", "-9223372036854775809", "9007199254740993.0"]
NUMBERS += ["9" * 4300, "9" * 4301, "-" + "9" * 4301, f"1{'0' * 400}.5", "1.", ".5", "+1", "1e", "-", "0x10", "1_000"]
NUMBERS += ["5e-324", "2.2250738585072011e-308", "123456789.123456789e-5", "0.1", "1.7976931348623157e309"]
TEXTS = [
    r'"\ud800"',
    r'"\ude00\ud83d"',
    r'"\ud83d\ude00"',
    r'"\u0000"',
    r'"\x41"',
    r'"\u00g0"',
    r'"\/"',
    '"\x01"',
    '"\\"',
]
TEXTS += ['"a\nb"', '"\x7f\u2028é😀"', '"']
SHAPES = [
    '{"a":1,"a":2}',
    '{"a":1,"b":2,"a":3}',
    "[1,]",
    '{"a":1,}',
    "{1:2}",
    "",
    " 1 ",
    "\x0b1",
    "1 2",
    "[",
    "nul",
    "/**/1",
]
SHAPES += ["[" * depth + "]" * depth for depth in (150, 300, 900)]
SHAPES += ["[" * 100_000]
BYTES = [b"\xef\xbb\xbf1", b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', b"\x00", b"1\x00"]
BYTES += ['{"ä":1}'.encode(encoding) for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-32")]


def read_by(read: object, text: str | bytes) -> str:
    try:
        return repr(read(text))  # type: ignore[operator]  # One of two functions.
    except (ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


def test_what_is_odd_is_read_as_the_standard_library_reads_it() -> None:
    texts = [*NUMBERS, *TEXTS, *SHAPES]
    for text in (*texts, *BYTES, *(text.encode("utf-8", "surrogatepass") for text in texts)):
        assert read_by(read_json, text) == read_by(json.loads, text)


PIECES = st.sampled_from(
    [*NUMBERS[:20], *TEXTS, "{", "}", "[", "]", ",", ":", '"a"', '"', " ", "\\", "true", "null", "1"]
)


@settings(max_examples=EXAMPLES, deadline=None, database=None)
@given(text=st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=8))
def test_whatever_is_there_is_read_as_the_standard_library_reads_it(text: str) -> None:
    assert read_by(read_json, text) == read_by(json.loads, text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", "\0", "\u2028"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=EXAMPLES, deadline=None, database=None)
@given(value=VALUES)
def test_what_is_written_is_what_the_standard_library_would_have_written(value: object) -> None:
    assert repr(json.loads(write_json(value))) == repr(json.loads(json.dumps(value)))
