"""The pure includes, run in a Lua of their own: what they write, they and Python read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lupa.lua51 as lua51
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartstore.model import OrderLine, line_id_of, sku_of
from cartstore.redis.replies import _read_order_line, encode_order_line
from cartstore.redis.scripts import _INCLUDE, _read

TIMES = st.integers(0, 2**42)
UNITS = st.integers(0, 2**31)


def load(lua: lua51.LuaRuntime, *includes: str) -> Any:
    """The globals of a Lua runtime, these includes among them."""
    for name in includes:
        lua.execute(
            _INCLUDE.sub("", _read("includes", f"{name}.lua")).replace("local function", "function", 1)
        )
    return lua.globals()


# One byte is one character, since what is packed is no text.
RUNTIME = lua51.LuaRuntime(encoding="latin-1")
RUNTIME.execute(f"cmsgpack = dofile('{Path(__file__).with_name('cmsgpack.lua')}')")
LUA = load(
    RUNTIME,
    *("line_encode", "line_expires", "line_decode", "line_sku"),
    *("int", "order_line_encode", "terms_decode"),
)


def line_table(created: int, **values: int) -> Any:
    line = {
        "quantity": 2,
        "held": 2,
        "indexed": created + 1_000,
        "latest": created + 9_000,
        "first": created,
        "ttl": 1_000,
        "price": 5,
        "revision": 1,
        "ordinal": 1,
        "added": created,
        "updated": created,
    }
    return RUNTIME.table_from(line | values)


@given(
    quantity=UNITS,
    held=UNITS,
    price=st.integers(0, 10**11),
    revision=st.integers(1, 2**52),
    created=TIMES,
    times=st.tuples(TIMES, TIMES, TIMES, TIMES, TIMES),
)
def test_line_decode_gives_the_line_back_when_it_was_encoded(
    quantity: int, held: int, price: int, revision: int, created: int, times: tuple[int, int, int, int, int]
) -> None:
    indexed, latest, first, added, updated = times
    line = {
        "quantity": quantity,
        "held": held,
        "indexed": indexed,
        "latest": latest,
        "first": first,
        "ttl": 60_000,
        "price": price,
        "revision": revision,
        "ordinal": 3,
        "added": added,
        "updated": updated,
    }
    text = LUA.line_encode(RUNTIME.table_from(line), created)

    decoded = dict(LUA.line_decode(text, created, created, created))

    if held == 0:
        line["indexed"] = line["latest"] = line["first"] = 0
    expires = max(line["indexed"], min(created + line["ttl"], line["latest"])) if held else 0
    assert decoded == line | {"expires": expires}


@pytest.mark.parametrize(
    ("extended", "ttl", "latest", "expires"),
    [
        (500, 1_000, 9_000, 1_500),  # extended: counts from that moment
        (8_500, 1_000, 9_000, 9_000),  # never past the cap
        (-500, 1_000, 9_000, 1_000),  # never before what is indexed
        (500, 0, 9_000, 1_000),  # had lapsed when the cart was extended
        (
            8_701,
            100,
            9_000,
            8_800,
        ),  # that moment is yet to come: the clock stepped back, and it counts as now
    ],
)
def test_line_decode_derives_the_expiry_when_the_cart_was_extended(
    extended: int, ttl: int, latest: int, expires: int
) -> None:
    created = 1_900_000_000_000
    text = LUA.line_encode(line_table(created, ttl=ttl, latest=created + latest), created)

    line = LUA.line_decode(text, created, created + extended, created + 8_700)

    assert line["expires"] == created + expires


@pytest.mark.parametrize("text", ["", "1", "1 2 3", "a b c d e f g h i j k", "1 1 1 1 1 1 1 1 1 1 1 1"])
def test_line_decode_gives_nothing_when_the_text_is_no_line(text: str) -> None:
    assert LUA.line_decode(text, 0, 0, 0) is None


@pytest.mark.parametrize("sku", ["a", "a~b", "a~~b", "x~~0123456789a", "tee.m_1-2"])
@pytest.mark.parametrize("properties", [None, '{"engraving":"Ann"}'])
def test_line_sku_reads_what_python_made_when_the_line_has_properties_or_not(
    sku: str, properties: str | None
) -> None:
    line_id = line_id_of(sku, properties)

    assert LUA.line_sku(line_id) == sku_of(line_id) == sku


def test_order_line_is_the_same_text_when_lua_and_python_encode_it() -> None:
    line = OrderLine(
        line_id="a~~0123456789ab",
        sku="a",
        quantity=2**31,
        held=2,
        mode="held",
        unit_price_minor=10**11,
        revision=2**40,
        first_held_at_ms=1_900_000_000_000,
        properties_json='{"a":"b"}',
    )
    table = RUNTIME.table_from(
        {
            "line_id": line.line_id,
            "sku": line.sku,
            "quantity": line.quantity,
            "held": line.held,
            "mode": line.mode,
            "price": line.unit_price_minor,
            "revision": line.revision,
            "first": line.first_held_at_ms,
            "properties": line.properties_json,
        }
    )

    text = LUA.order_line_encode(table)

    assert text == encode_order_line(line)
    assert _read_order_line(text) == line


@pytest.mark.parametrize("packed", ["", "1 2 3", "1 2 3 4 5 6 7 8 2", "1 2 3 4 5 6 7 x 1"])
def test_terms_decode_gives_nothing_when_the_text_is_no_terms(packed: str) -> None:
    assert LUA.terms_decode(packed) is None
