"""Characters that no stored text may have."""

from __future__ import annotations

import json
import unicodedata

import pytest

from cartstore.texts import has_control, may_have_control, without_control


def test_control_characters_are_those_of_unicode() -> None:
    expected = {code for code in range(0x11_0000) if unicodedata.category(chr(code)) in ("Cc", "Cs")}
    candidates = expected | {code + step for code in expected for step in (-1, 1) if code + step >= 0}

    assert {code for code in candidates if has_control(f"a{chr(code)}b")} == expected
    allowed = {ord("\n"), ord("\r"), ord("\t")}
    assert {code for code in candidates if has_control(chr(code), is_multiline=True)} == expected - allowed


@pytest.mark.parametrize("is_ascii", [True, False])
def test_json_is_suspected_whenever_a_text_in_it_has_a_control_character(is_ascii: bool) -> None:
    for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)):
        for text in (f"a{chr(code)}", f"\\{chr(code)}"):
            assert may_have_control(json.dumps([text], ensure_ascii=is_ascii).encode()), hex(code)
    assert not may_have_control('{"a": "é \\"quoted\\" \\\\ 漢"}'.encode())


def test_text_is_cleaned_where_control_characters_stand() -> None:
    assert without_control("a\x00b\nc\ud800", " ") == "a b c "
    assert without_control("a\x00b\nc\td", is_multiline=True) == "ab\nc\td"
