"""NDJSON: which lines are taken, and what each of them says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cartstore.catalog.importing import parse_catalog
from cartstore.catalog.parsed import Note, Parsed, ParsedProduct, Rejection
from cartstore.errors import InvalidField
from cartstore.limits import RESERVED_IDS
from cartstore.model import PurchaseLimit, Variant

MUG: dict[str, Any] = {"id": "mug", "title": "Mug", "variants": [{"sku": "MUG", "price": "9.50"}]}


def parse(*lines: dict[str, Any] | bytes, currency: str = "EUR") -> list[Parsed]:
    content = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    return list(parse_catalog(content, currency=currency))


def parse_one(line: dict[str, Any]) -> ParsedProduct:
    (parsed,) = parse(line)
    assert isinstance(parsed, ParsedProduct), parsed
    return parsed


def with_variant(**members: Any) -> dict[str, Any]:
    return {**MUG, "variants": [{**MUG["variants"][0], **members}]}


def test_parse_takes_every_member_of_a_product() -> None:
    parsed = parse_one(
        {
            "id": "tee",
            "title": "Tee",
            "description": "Two\nlines",
            "seller": "Weavers",
            "active": False,
            "images": ["https://img.test/a.jpg"],
            "options": ["Size"],
            "currency": "JPY",
            "variants": [
                {
                    "sku": "TEE-S",
                    "options": {"Size": "S"},
                    "price": "1200.00",
                    "prices": {"USD": "12.500"},
                    "sale_price": "900",
                    "sale_from": "2030-01-01",
                    "sale_to": None,
                    "current_price": "1200",
                    "policy": "backorder",
                    "available_on": "2030-01-01",
                    "promised_on": "2030-02-01",
                    "hold_policy": "on_checkout",
                    "hold_ttl_seconds": 60,
                    "min_quantity": 2,
                    "max_quantity": 8,
                    "multiple_of": 2,
                    "max_per_customer": {"quantity": 4, "window_seconds": 60},
                    "available": 7,
                }
            ],
        }
    )

    product = parsed.product
    assert (product.id, product.title, product.description) == ("tee", "Tee", "Two\nlines")
    assert (product.seller, product.active, product.currency) == ("Weavers", False, "JPY")
    assert (product.images, product.options) == (("https://img.test/a.jpg",), ("Size",))
    assert product.variants == (
        Variant(
            sku="TEE-S",
            options={"Size": "S"},
            price_minor=1_200,
            prices_minor={"USD": 1_250},
            sale_price_minor=900,
            sale_from="2030-01-01",
            policy="backorder",
            available_on="2030-01-01",
            promised_on="2030-02-01",
            hold_policy="on_checkout",
            hold_ttl_seconds=60,
            min_quantity=2,
            max_quantity=8,
            multiple_of=2,
            max_per_customer=PurchaseLimit(quantity=4, window_seconds=60),
        ),
    )
    assert parsed.quantities == {}


def test_line_says_only_the_members_that_it_has() -> None:
    bare = parse_one(MUG)
    more = parse_one({**with_variant(policy="deny", sale_price=None), "description": None, "active": True})

    assert bare.says == {"title"}
    assert bare.variant_says == {"options", "price_minor"}
    assert more.says == {"title", "description", "active"}
    assert more.variant_says == {"options", "price_minor", "policy", "sale_price_minor"}
    assert more.product.variants[0].sale_price_minor is None


def test_line_says_no_field_that_only_some_variants_have() -> None:
    variants = [
        {"sku": "A", "price": "1", "options": {"Size": "S"}, "policy": "backorder"},
        {"sku": "B", "price": "1", "options": {"Size": "M"}},
    ]

    note, parsed = parse({**MUG, "options": ["Size"], "variants": variants})

    assert isinstance(note, Note)
    assert "policy" in note.text
    assert isinstance(parsed, ParsedProduct)
    assert parsed.variant_says == {"options", "price_minor"}
    assert [variant.policy for variant in parsed.product.variants] == ["backorder", "deny"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": ', "is no product"),
        (b"[]", "is no product"),
        (b'{"id": "\xff"}', "is no product"),
        (b'{"a":' * 5_000, "is no product"),
        ({**MUG, "id": 7}, "$.id"),
        ({"id": "x", "title": "X"}, "variants"),
        ({**MUG, "colour": "red"}, "colour"),
        (with_variant(policy="some"), "$.variants[0].policy"),
        (with_variant(price=9.5), "$.variants[0].price"),
        (with_variant(price="9.501"), "decimals"),
        (with_variant(hold_ttl_seconds=0), "hold_ttl_seconds"),
        (with_variant(max_quantity=0), "max_quantity"),
        (with_variant(sku="a b"), "SKU is"),
        ({**MUG, "currency": "XXX"}, "XXX"),
        ({**MUG, "variants": []}, "variants"),
    ],
)
def test_parse_names_a_line_that_it_cannot_take_and_takes_the_others(
    line: dict[str, Any] | bytes, reason: str
) -> None:
    first, rejection, last = parse(
        MUG, line, {**MUG, "id": "cup", "variants": [{"sku": "CUP", "price": "1"}]}
    )

    assert isinstance(rejection, Rejection)
    assert rejection.line == 2
    assert reason in rejection.reason
    assert [its.name for its in (first, last)] == ["mug", "cup"]


@pytest.mark.parametrize(
    ("again", "reason"),
    [
        ({**MUG, "variants": [{"sku": "CUP", "price": "1"}]}, "mug is on line 1"),
        ({**MUG, "id": "cup"}, "MUG is on line 1"),
    ],
)
def test_parse_rejects_what_an_earlier_line_has(again: dict[str, Any], reason: str) -> None:
    _, rejection = parse(MUG, again)

    assert isinstance(rejection, Rejection)
    assert reason in rejection.reason


def test_parse_counts_and_numbers_lines_behind_blank_ones_and_a_byte_order_mark() -> None:
    file = parse_catalog(b"\xef\xbb\xbf\r\n" + json.dumps(MUG).encode() + b"\r\n\n{}\n", currency="EUR")

    entries = list(file)

    assert [entry.line for entry in entries] == [2, 4]
    assert (file.rows_done, file.rows_total) == (2, 2)


@pytest.mark.parametrize("name", sorted(RESERVED_IDS))
def test_parse_spells_reserved_ids_so_that_no_client_changes_them(name: str) -> None:
    product = parse_one({**MUG, "id": name, "variants": [{"sku": name, "price": "1"}]}).product

    assert product.id == product.variants[0].sku != name
    assert product.id.startswith(f"{name}~")


def test_parse_refuses_an_unknown_currency_of_the_import() -> None:
    with pytest.raises(InvalidField, match="XXX"):
        parse(MUG, currency="XXX")
