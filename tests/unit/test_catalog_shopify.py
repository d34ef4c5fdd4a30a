"""Shopify's product export, one rule at a time."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from cartstore import limits
from cartstore.catalog.importing import parse_catalog
from cartstore.catalog.parsed import ParsedProduct, Rejection

SHARED = Path(__file__).parents[2].parent / "shared/data"

HEADER = (
    *("Handle", "Title", "Body (HTML)", "Vendor", "Published", "Option1 Name", "Option1 Value"),
    *("Option2 Name", "Option2 Value", "Option3 Name", "Option3 Value", "Variant SKU"),
    *("Variant Inventory Tracker", "Variant Inventory Qty", "Variant Inventory Policy", "Variant Price"),
    *("Image Src", "Image Position", "Variant Image", "Status"),
)
MUG = {
    "Handle": "mug",
    "Title": "Mug",
    "Option1 Name": "Title",
    "Option1 Value": "Default Title",
    "Variant Inventory Qty": "5",
    "Variant Inventory Policy": "deny",
    "Variant Price": "15.00",
}
TEE = {
    **MUG,
    "Handle": "tee",
    "Title": "Tee",
    "Option1 Name": "Size",
    "Option1 Value": "Small",
    "Option2 Name": "Colour",
    "Option2 Value": "Dark Red",
}


def more(values: dict[str, str], **cells: str) -> dict[str, str]:
    """A further row of the same product: no title and no option names."""
    kept = {name: value for name, value in values.items() if name != "Title" and not name.endswith(" Name")}
    return {**kept, **cells}


def parse(*rows: dict[str, str], currency: str = "EUR") -> tuple[list[ParsedProduct], list[Rejection]]:
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    entries = list(parse_catalog(text.getvalue().encode(), currency=currency))
    return (
        [entry for entry in entries if isinstance(entry, ParsedProduct)],
        [entry for entry in entries if isinstance(entry, Rejection)],
    )


def parse_one(*rows: dict[str, str]) -> ParsedProduct:
    (parsed,), rejected = parse(*rows)
    assert rejected == []
    return parsed


def reason_of(*rows: dict[str, str]) -> str:
    _, (rejection,) = parse(*rows)
    return rejection.reason


def test_parse_reads_a_product_without_options() -> None:
    parsed = parse_one(
        {
            **MUG,
            "Body (HTML)": "<p>Holds <b>tea</b></p><p>and coffee</p>",
            "Vendor": "Tern & Co",
            "Variant SKU": "MUG-1",
            "Image Src": "https://example.com/mug.png",
        }
    )

    product = parsed.product
    assert (product.id, product.title, product.seller, product.currency) == ("mug", "Mug", "Tern & Co", "EUR")
    assert product.description == "Holds tea\nand coffee"
    assert (product.options, product.active) == ((), True)
    assert product.images == ("https://example.com/mug.png",)
    (variant,) = product.variants
    assert (variant.sku, variant.options, variant.price_minor) == ("MUG-1", {}, 1_500)
    assert (parsed.quantities, parsed.line, parsed.name, parsed.is_whole) == ({"MUG-1": 5}, 2, "mug", True)


def test_parse_reads_variants_with_the_option_names_of_the_first_row() -> None:
    parsed = parse_one(
        {**TEE, "Variant SKU": "TS"},
        more(TEE, **{"Option1 Value": "Large", "Variant Price": "17", "Variant Inventory Qty": "0"}),
    )

    assert parsed.product.options == ("Size", "Colour")
    assert [(variant.sku, variant.options, variant.price_minor) for variant in parsed.product.variants] == [
        ("TS", {"Size": "Small", "Colour": "Dark Red"}, 1_500),
        ("tee.large.dark-red", {"Size": "Large", "Colour": "Dark Red"}, 1_700),
    ]
    assert parsed.quantities == {"TS": 5, "tee.large.dark-red": 0}


@pytest.mark.parametrize(
    ("policy", "tracker", "expected"),
    [
        ("deny", "", "deny"),
        ("deny", "shopify", "deny"),
        ("continue", "", "backorder"),
        ("continue", "shopify", "backorder"),
        ("CONTINUE", "shopify", "backorder"),
        ("", "", "deny"),
    ],
)
def test_parse_takes_the_policy_from_its_column_alone(policy: str, tracker: str, expected: str) -> None:
    parsed = parse_one({**MUG, "Variant Inventory Policy": policy, "Variant Inventory Tracker": tracker})

    assert parsed.product.variants[0].policy == expected
    assert parsed.quantities == {"mug": 5}


def test_parse_generates_the_same_sku_wherever_the_row_stands() -> None:
    large = more(TEE, **{"Option1 Value": "Large"})
    one = parse_one(TEE, large)
    other = parse_one({**TEE, "Option1 Value": "Large"}, more(TEE))

    assert {variant.sku for variant in one.product.variants} == {
        variant.sku for variant in other.product.variants
    }


def test_parse_maps_names_that_are_no_ids() -> None:
    parsed = parse_one({**MUG, "Handle": "café crème", "Variant SKU": "MUG 1/A"})

    assert parsed.product.id.startswith("cafe-creme~")
    assert parsed.product.variants[0].sku.startswith("MUG-1-A~")
    assert parsed.name == "café crème"


def test_parse_drops_the_apostrophe_that_guards_a_number() -> None:
    assert parse_one({**MUG, "Variant SKU": "'00123"}).product.variants[0].sku == "00123"


@pytest.mark.parametrize(
    ("cells", "active"),
    [
        ({"Published": "true"}, True),
        ({"Published": "TRUE", "Status": "active"}, True),
        ({"Published": "false"}, False),
        ({"Published": "true", "Status": "draft"}, False),
        ({"Published": "true", "Status": "archived"}, False),
        ({}, True),
    ],
)
def test_parse_takes_what_is_not_published_for_inactive(cells: dict[str, str], active: bool) -> None:
    assert parse_one({**MUG, **cells}).product.active is active


def test_parse_collects_images_of_all_rows_by_position() -> None:
    image = {"Handle": "tee", "Image Src": "https://example.com/b.png", "Image Position": "2"}
    parsed = parse_one(
        {**TEE, "Image Src": "https://example.com/c.png", "Image Position": "3"},
        {**image, "Image Src": "https://example.com/a.png", "Image Position": "1"},
        image,
        {**image, "Image Position": "9"},
        more(TEE, **{"Option1 Value": "Large", "Variant Image": "https://example.com/large.png"}),
    )

    assert [url.rpartition("/")[2] for url in parsed.product.images] == [
        *("a.png", "b.png", "c.png", "large.png")
    ]
    assert len(parsed.product.variants) == 2


@pytest.mark.parametrize("url", ["javascript:alert(1)", "mug.png", "http://" + "x" * limits.URL_LENGTH_MAX])
def test_parse_leaves_out_an_image_and_keeps_its_variant(url: str) -> None:
    (parsed,), (rejection,) = parse({**MUG, "Image Src": url})

    assert parsed.product.images == ()
    assert "left out" in rejection.reason


def test_parse_leaves_out_images_beyond_the_most() -> None:
    rows = [
        {"Handle": "mug", "Image Src": f"https://example.com/{n}.png"} for n in range(limits.IMAGES_MAX + 2)
    ]
    (parsed,), rejected = parse(MUG, *rows)

    assert len(parsed.product.images) == limits.IMAGES_MAX
    assert [rejection.line for rejection in rejected] == [limits.IMAGES_MAX + 3, limits.IMAGES_MAX + 4]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"Variant Price": "cheap"}, "not an amount"),
        ({"Variant Price": "-1"}, "not an amount"),
        ({"Variant Price": "1,50"}, "not an amount"),
        ({"Variant Price": "1.999"}, "3 decimals; EUR has 2"),
        ({"Variant Price": "99999999999"}, "above"),
        ({"Variant Price": ""}, "Variant Price is blank"),
        ({"Variant Inventory Qty": "-3"}, "Variant Inventory Qty is negative"),
        ({"Variant Inventory Qty": "1.5"}, "not a whole number"),
        ({"Variant Inventory Qty": "many"}, "not a whole number"),
        ({"Variant Inventory Qty": str(limits.STOCK_MAX + 1)}, "at most"),
        ({"Variant Inventory Qty": "9" * 40}, "not a whole number"),
        ({"Variant Inventory Policy": "maybe"}, "not deny or continue"),
        ({"Option1 Value": ""}, "Option1 Value is blank (Size)"),
        ({"Option3 Value": "Wool"}, "no Option3 Name"),
        ({"Option1 Value": "Small"}, "same options"),
        ({"Variant SKU": "TS"}, "SKU TS is on line 2 already"),
        ({"Option1 Value": "x" * 300}, "more than 256 characters"),
    ],
)
def test_parse_rejects_a_row_and_takes_the_others_of_its_product(cells: dict[str, str], reason: str) -> None:
    good = {**TEE, "Variant SKU": "TS"}
    products, rejected = parse(good, more(TEE, **{"Option1 Value": "Large", **cells}), MUG)

    assert [rejection.line for rejection in rejected] == [3]
    assert reason in rejected[0].reason
    assert [parsed.name for parsed in products] == ["tee", "mug"]
    assert [variant.sku for variant in products[0].product.variants] == ["TS"]
    assert products[0].is_whole is False


def test_parse_names_a_row_by_sku_else_by_handle() -> None:
    _, rejected = parse(
        {**MUG, "Variant Price": "x", "Variant SKU": "MUG-1"}, {**MUG, "Handle": "cup", "Variant Price": "x"}
    )

    assert [rejection.name for rejection in rejected] == ["MUG-1", "cup"]


def test_parse_names_every_row_of_a_product_that_cannot_be_imported() -> None:
    products, rejected = parse(
        {**MUG, "Title": "x" * 300}, {"Handle": "mug", "Image Src": "https://example.com/a.png"}
    )

    assert products == []
    assert [rejection.line for rejection in rejected] == [2, 3]
    assert all("title must have" in rejection.reason for rejection in rejected)


def test_parse_rejects_a_product_all_of_whose_variants_are_wrong() -> None:
    products, rejected = parse(
        {**MUG, "Variant Price": "x"}, {"Handle": "mug", "Image Src": "https://example.com/a.png"}
    )

    assert products == []
    assert [rejection.line for rejection in rejected] == [2, 3]
    assert "no variant that could be taken" in rejected[1].reason


def test_parse_rejects_rows_that_nothing_can_be_made_of() -> None:
    assert "no handle" in reason_of({**MUG, "Handle": ""})
    assert "no row of this product has a title" in reason_of({**MUG, "Title": ""}).lower()
    assert "neither a variant nor an image" in reason_of(MUG, {"Handle": "mug"})


def test_parse_rejects_rows_of_a_product_that_stand_apart() -> None:
    products, rejected = parse(MUG, {**MUG, "Handle": "cup"}, more(MUG))

    assert [parsed.name for parsed in products] == ["mug", "cup"]
    assert [(rejection.line, "stand together" in rejection.reason) for rejection in rejected] == [(4, True)]


def test_parse_rejects_a_sku_that_another_product_of_the_file_has() -> None:
    products, (rejection,) = parse(
        {**MUG, "Variant SKU": "A"},
        {**TEE, "Variant SKU": "A"},
        more(TEE, **{"Option1 Value": "Large", "Variant SKU": "B"}),
    )

    assert (rejection.line, rejection.name) == (3, "A")
    assert [variant.sku for variant in products[1].product.variants] == ["B"]


def test_parse_takes_the_head_of_a_product_whose_first_variant_is_wrong() -> None:
    (parsed,), _ = parse({**TEE, "Variant Price": "x"}, more(TEE, **{"Option1 Value": "Large"}))

    assert (parsed.product.title, parsed.product.options) == ("Tee", ("Size", "Colour"))


def test_parse_rejects_variants_beyond_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cartstore.catalog.shopify.VARIANTS_MAX", 2)
    rows = [more(TEE, **{"Option1 Value": f"Size {n}"}) for n in range(3)]
    (parsed,), rejected = parse(TEE, *rows)

    assert len(parsed.product.variants) == 2
    assert [rejection.line for rejection in rejected] == [4, 5]


def test_parse_uses_the_minor_units_of_the_currency() -> None:
    (parsed,), _ = parse({**MUG, "Variant Price": "1500"}, currency="JPY")

    assert parsed.product.variants[0].price_minor == 1_500
    assert parsed.product.currency == "JPY"


@pytest.mark.parametrize(
    ("name", "products", "variants"),
    [("shopify-apparel.csv", 20, 22), ("shopify-home-and-garden.csv", 20, 21)],
)
def test_parse_takes_every_row_of_the_real_exports(name: str, products: int, variants: int) -> None:
    if not (SHARED / name).exists():
        # The rules themselves are tested above, on rows of this file's own.
        return
    file = parse_catalog(SHARED / name, currency="USD")
    parsed = [entry for entry in file if isinstance(entry, ParsedProduct)]

    assert len(parsed) == products
    assert sum(len(entry.product.variants) for entry in parsed) == variants == file.rows_total
    assert all(variant.policy == "deny" for entry in parsed for variant in entry.product.variants)
