"""What the library takes as properties and as a checkout's details."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cartstore import limits
from cartstore.errors import InvalidField
from cartstore.free_json import canonical_properties, check_metadata, check_properties_json, details_text


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"a": 1}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_properties_are_one_text_however_they_are_spelled() -> None:
    assert canonical_properties({"b": "[{", "a": [1, {}]}) == '{"a":[1,{}],"b":"[{"}'
    assert canonical_properties({}) is None
    assert canonical_properties(nested(32)) == '{"a":' * 32 + "1" + "}" * 32


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        # One number, as clients in JavaScript, Python and Java write it.
        (['{"n":1}', '{"n":1.0}', '{"n":1e0}', '{"n":10E-1}'], '{"n":1}'),
        (['{"n":0}', '{"n":-0}', '{"n":-0.0}'], '{"n":0}'),
        (['{"n":0.000001}', '{"n":1e-6}'], '{"n":0.000001}'),
        (['{"n":1e18}', '{"n":1000000000000000000}'], '{"n":1000000000000000000}'),
        (['{"n":1e21}', '{"n":1000000000000000000000.0}'], '{"n":1e+21}'),
        (['{"a":{"x":[2.50]}}', '{"a":{"x":[2.5]}}'], '{"a":{"x":[2.5]}}'),
        # Names are in the order of their UTF-16 code units, and non-ASCII characters are written as they are.
        (['{"\\uffff":1,"\\ud83d\\ude00":2}', '{"😀":2,"\uffff":1}'], '{"😀":2,"\uffff":1}'),
        (['{"caf\\u00e9":"\\u20ac"}', '{"café":"€"}'], '{"café":"€"}'),
    ],
)
def test_properties_are_one_text_however_numbers_and_names_are_written(sent: list[str], kept: str) -> None:
    assert {canonical_properties(msgspec.json.decode(text)) for text in sent} == {kept}
    check_properties_json(kept, "properties")


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        (nested(33), "nested more than 32 levels"),
        (nested(500), "nested more than 32 levels"),
        (nested(50_000), "nested more than 32 levels"),
        ({"a": ["\x1b[2J"]}, "control character"),
        ({"\x7f": 1}, "control character"),
        ({"a": "\ud800"}, "must be a JSON object"),
        ({"a": object()}, "must be a JSON object"),
        ({"a": [2**53 + 1]}, "an integer beyond 9007199254740991"),
        ({"a": -12_345_678_901_234_567_890}, "an integer beyond"),
        ({"a": "x" * limits.PROPERTIES_BYTES_MAX}, "2048 are kept"),
    ],
)
def test_properties_are_refused_by_name(properties: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidField, match=said) as caught:
        canonical_properties(properties, "items[3].properties")

    assert caught.value.field == "items[3].properties"


@pytest.mark.parametrize(
    "text", ['{"b":1,"a":1}', '{"a": 1}', "[1]", "{", "", '{"a":' * 40_000, '{"a":"\x7f"}']
)
def test_text_of_properties_is_refused_when_it_is_not_the_canonical_one(text: str) -> None:
    with pytest.raises(InvalidField) as caught:
        check_properties_json(text, "properties")

    assert caught.value.field == "properties"


def test_text_of_properties_is_taken_when_it_is_the_canonical_one() -> None:
    check_properties_json(canonical_properties({"n": 1.5, "é": [None, 10**18]}), "properties")
    check_properties_json(None, "properties")


def test_details_are_kept_when_each_member_is_shallow_enough() -> None:
    text = details_text({"metadata": nested(32), "contact": {"email": "a@b.co"}})

    assert text == '{"contact":{"email":"a@b.co"},"metadata":' + '{"a":' * 32 + "1" + "}" * 33
    assert details_text(None) == "{}"


@pytest.mark.parametrize(
    ("details", "field"),
    [
        ({"metadata": nested(33)}, "metadata"),
        ({"metadata": nested(50_000)}, "metadata"),
        ({"metadata": {"a": "x" * limits.METADATA_BYTES_MAX}}, "metadata"),
        ({"contact": nested(33)}, "contact"),
        ({"note": object()}, "note"),
    ],
)
def test_details_are_refused_by_name(details: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        details_text(details)

    assert caught.value.field == field


def test_metadata_is_refused_when_it_is_too_large() -> None:
    check_metadata({"a": "x" * (limits.METADATA_BYTES_MAX - 8)})
    with pytest.raises(InvalidField, match="4096 are kept"):
        check_metadata({"a": "x" * (limits.METADATA_BYTES_MAX - 7)})
