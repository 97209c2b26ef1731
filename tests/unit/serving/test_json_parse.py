import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.serving.json_parse import _SlowReader, parse_json
from tasks.serving.status import Code, ServingError

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON_VALUES, st.booleans())
def test_valid_json_reads_as_the_standard_library_reads_it(value: Any, ascii_only: Any) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1)
    assert parse_json(text.encode("utf-8", "surrogateescape")) == value


@given(JSON_VALUES)
def test_the_slow_reader_agrees_with_the_fast_one(value: Any) -> None:
    text = json.dumps(value)
    assert _SlowReader(text).read() == json.loads(text)


@pytest.mark.parametrize(
    ("body", "error"),
    (
        (b"", "The document is empty"),
        (b"  \n", "The document is empty. at offset: 3"),
        (b"instances = [1, 2]", "Invalid value. at offset: 0"),
        (b"{", "Missing a name for object member. at offset: 1"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a": 1 "b": 2}', "Missing a comma or } after an object member. at offset: 8"),
        (b'{"a": 1,}', "Missing a name for object member. at offset: 8"),
        (b"[1 2]", "Missing a comma or ] after an array element. at offset: 3"),
        (b"[1,]", "Invalid value. at offset: 3"),
        (b'{"a":[1,2', "Missing a comma or ] after an array element. at offset: 9"),
        (b'["a', "Missing a closing quotation mark in string. at offset: 3"),
        (b'["\\q"]', "Invalid escape character in string. at offset: 2"),
        (b'["\\u12x4"]', "Incorrect hex digit after \\u escape in string. at offset: 2"),
        (b'["\\ud800"]', "The surrogate pair in string is invalid. at offset: 2"),
        (b'["\x01"]', "Invalid encoding in string. at offset: 2"),
        (b"[1.]", "Miss fraction part in number. at offset: 3"),
        (b"[1e]", "Miss exponent in number. at offset: 3"),
        (b"[-]", "Invalid value. at offset: 2"),
        (b"[01]", "Missing a comma or ] after an array element. at offset: 2"),
        (b"[1e999]", "Number too big to be stored in double. at offset: 1"),
        (b"[nul]", "Invalid value. at offset: 4"),
        ('["\u00e9", x]'.encode(), "Invalid value. at offset: 7"),
    ),
)
def test_an_error_has_rapidjsons_words_and_its_offset_in_bytes(body: Any, error: Any) -> None:
    with pytest.raises(ServingError) as refused:
        parse_json(body)
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert refused.value.message == f"JSON Parse error: {error}"


def test_what_follows_the_document_is_ignored() -> None:
    assert parse_json(b' {"a": 1}X{{{') == {"a": 1}


def test_nan_and_infinity_are_numbers_in_all_their_spellings() -> None:
    found = parse_json(b"[NaN, Infinity, -Infinity, Inf, -Inf, -NaN]")
    assert [math.isnan(number) for number in found] == [True, False, False, False, False, True]
    assert found[1:5] == [math.inf, -math.inf, math.inf, -math.inf]


def test_of_two_members_with_one_name_the_first_counts() -> None:
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 1}


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse_json(b'["\\ud83d\\ude00"]') == ["\U0001f600"]


def test_any_depth_of_nesting_is_read() -> None:
    deep = parse_json(b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert list(deep) == ["x"]


def test_bytes_that_are_no_utf8_survive() -> None:
    (text,) = parse_json(b'["\xff\xfe"]')
    assert text.encode("utf-8", "surrogateescape") == b"\xff\xfe"
