"""HTML as text, and names as ids."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartstore import limits
from cartstore.catalog.text import generated_sku, id_of, one_line, text_of_html
from cartstore.limits import ID_LENGTH_MAX
from cartstore.model import ID_PATTERN, is_sku


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("plain", "plain"),
        ("<p>One</p><p>Two <b>bold</b></p>", "One\nTwo bold"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<ul><li>x</li><li>y</li></ul>", "x\ny"),
        ("Tom &amp; Ada &lt;3", "Tom & Ada <3"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("a <!-- <p>no</p> --> b", "a b"),
        ("a <!-- never closed", "a"),
        ("x<script>alert('<p>')</script>y", "xy"),
        ("x<STYLE type='a'>p {}</style >y", "xy"),
        ("x<script>never closed", "x"),
        ("<!DOCTYPE html><?php no ?>yes", "yes"),
        ("<p>stray</", "stray</"),
        ("<a href='https://example.com/?a=1>2'>link</a>", "2'>link"),
        ("  a \t b \n\n\n c  ", "a b\nc"),
        ("a\x07b\0c&#1;d", "abcd"),
        ("", ""),
    ],
)
def test_text_of_html_gives_what_a_reader_sees(html: str, text: str) -> None:
    assert text_of_html(html) == text


@given(st.text(alphabet="<>!-/ &;#aps\n\0x", max_size=200))
def test_text_of_html_never_fails_and_leaves_no_tag(html: str) -> None:
    text = text_of_html(html)

    # A reader's `&lt;p&gt;` may well read <p>; without entities nothing may.
    if "&" not in html:
        assert not re.search(r"<(p|a|s|x)>", text)
    assert "\0" not in text


@pytest.mark.parametrize("part", ["<", "<a ", "<!--", "<script>", "<![", "&", "</", "<p", "<!"])
def test_text_of_html_reads_hostile_texts_in_one_pass(part: str) -> None:
    """Anything that looks ahead again and again would not come back from this within the day."""
    assert len(text_of_html(part * 300_000)) <= len(part) * 300_000


def test_one_line_has_no_control_characters() -> None:
    assert one_line(" a\nb\tc\x00 ") == "a b c"


@pytest.mark.parametrize("name", ["tee", "TS-01", "a.b_c~d", "x" * ID_LENGTH_MAX])
def test_id_of_keeps_what_may_be_an_id(name: str) -> None:
    assert id_of(name) == name


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("TS 01/M", "TS-01-M~"),
        ("café", "cafe~"),
        ("日本", "x~"),
        ("tee~~0123456789ab", "tee-0123456789ab~"),
        ("a" * 200, "a" * 100 + "~"),
    ],
)
def test_id_of_makes_a_readable_id_of_anything_else(name: str, readable: str) -> None:
    assert id_of(name).startswith(readable)
    assert re.fullmatch(r"[0-9a-f]{10}", id_of(name).removeprefix(readable))


@given(st.text(min_size=1), st.text(min_size=1))
def test_id_of_is_a_sku_and_differs_for_different_names(one: str, other: str) -> None:
    assert is_sku(id_of(one))
    assert (id_of(one) == id_of(other)) == (one == other)


@pytest.mark.parametrize(
    ("product_id", "values", "sku"),
    [
        ("tee", (), "tee"),
        ("tee", ("Small",), "tee.small"),
        ("tee", ("Dark Red", "XL"), "tee.dark-red.xl"),
    ],
)
def test_generated_sku_is_readable(product_id: str, values: tuple[str, ...], sku: str) -> None:
    assert generated_sku(product_id, values) == sku


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("tee", ("S/M",)), ("tee", ("S-M",))),
        (("tee", ("S M",)), ("tee", ("S-M",))),
        (("tee", ("a b", "c")), ("tee", ("a", "b c"))),
        (("tee", ("Small",)), ("tee-small", ())),
        (("tee", ("größe",)), ("tee", ("grosse",))),
        (("tee" * 30, ("x" * 60,)), ("tee" * 30, ("x" * 61,))),
    ],
)
def test_generated_sku_differs_for_different_variants(
    one: tuple[str, tuple[str, ...]], other: tuple[str, tuple[str, ...]]
) -> None:
    skus = {generated_sku(*one), generated_sku(*other)}

    assert len(skus) == 2
    assert all(is_sku(sku) for sku in skus)


@given(st.lists(st.text(min_size=1), max_size=3))
def test_generated_sku_is_always_a_sku(values: list[str]) -> None:
    assert is_sku(generated_sku("tee", tuple(values)))
    assert ID_PATTERN.match(generated_sku("t" * 128, tuple(values)))


@pytest.mark.parametrize("name", sorted(limits.RESERVED_IDS))
def test_id_of_spells_a_reserved_name_so_that_no_client_changes_it(name: str) -> None:
    made = id_of(name)

    assert made.startswith(f"{name}~")
    assert is_sku(made)
