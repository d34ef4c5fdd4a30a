"""How deep JSON is nested, told without decoding it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartstore.nesting import is_deeper, place_deeper
from cartstore.stored_json import passed_through

TEXTS = st.text(alphabet='{}[]",:\\ a\u00e9', max_size=6)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


def _depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth_of, value), default=0)
    return 0


@settings(max_examples=300, deadline=None, database=None)
@given(value=VALUES, is_ascii=st.booleans())
def test_depth_is_that_of_the_decoded_value(value: Any, is_ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii).encode()
    depth = _depth_of(value)

    assert not is_deeper(body, depth)
    assert depth == 0 or is_deeper(body, depth - 1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'"',
        b'"\\',
        b"]" * 50,
        b'"' + b"[" * 50,
        b'{"a":"' + b'\\"[' * 50 + b'"}',
        b"[]" * 50,
        b"[[[" * 3,
    ],
)
def test_what_is_no_json_is_never_too_deep_by_mistake(body: bytes) -> None:
    assert not is_deeper(body, 10)


def test_place_is_that_of_the_first_member_that_is_too_deep() -> None:
    body = json.dumps({"n": [[1]], "items": [{"a": ["]", 2]}, {"b\\": {"c": {"d": 1}}}]}).encode()

    assert place_deeper(body, 4) == ["items", 1, "b\\", "c"]
    assert place_deeper(body, 2) == ["n", 0]
    assert place_deeper(body, 5) == []
    assert place_deeper(b"[" * 10_000, 20_000) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, b"{}"),
        ("", b"{}"),
        ('{"a": {"b": [1, "\\n"]}}', b'{"a": {"b": [1, "\\n"]}}'),
        ('{"a":' * 32 + "1" + "}" * 32, b'{"a":' * 32 + b"1" + b"}" * 32),
        ('{"a":' * 33 + "1" + "}" * 33, None),
        ('{"a":' * 30_000, None),
        ('{"a": {"b": tru}}', None),
        ('{"a": 1', None),
        ("[1]", None),
        ("7", None),
        ('{"a": "\ud800"}', None),
    ],
)
def test_stored_json_is_handed_on_as_it_is_or_not_at_all(text: str | None, told: bytes | None) -> None:
    found = passed_through(text)

    assert (bytes(found) if found is not None else None) == told
