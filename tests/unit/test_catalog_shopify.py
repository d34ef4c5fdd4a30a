"""Shopify's product export, one rule at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cartstore import limits
from cartstore.catalog.importing import parse_catalog
from cartstore.catalog.parsed import Note, ParsedProduct, Rejection
from cartstore.catalog.shopify import BlankTracker

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
    "Variant Inventory Tracker": "shopify",
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
    return told_apart(text.getvalue(), currency=currency)[:2]


def told_apart(
    text: str, *, currency: str = "EUR", blank_tracker: BlankTracker = "untracked"
) -> tuple[list[ParsedProduct], list[Rejection], list[Note]]:
    entries = list(parse_catalog(text.encode(), currency=currency, blank_tracker=blank_tracker))
    return (
        [entry for entry in entries if isinstance(entry, ParsedProduct)],
        [entry for entry in entries if isinstance(entry, Rejection)],
        [entry for entry in entries if isinstance(entry, Note)],
    )


def text_of(*rows: dict[str, str], columns: Sequence[str] = ()) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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
        ("deny", "", "untracked"),
        ("deny", "shopify", "deny"),
        ("continue", "", "untracked"),
        ("continue", "shopify", "backorder"),
        ("CONTINUE", "shopify", "backorder"),
        ("", "shopify", "deny"),
    ],
)
def test_parse_takes_the_policy_from_its_column_where_units_are_counted(
    policy: str, tracker: str, expected: str
) -> None:
    parsed = parse_one({**MUG, "Variant Inventory Policy": policy, "Variant Inventory Tracker": tracker})

    assert parsed.product.variants[0].policy == expected
    assert parsed.quantities == ({} if expected == "untracked" else {"mug": 5})


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
    ("name", "products", "variants", "counted"),
    [("shopify-apparel.csv", 20, 22, 0), ("shopify-home-and-garden.csv", 20, 21, 1)],
)
def test_parse_takes_every_row_of_the_real_exports(
    name: str, products: int, variants: int, counted: int
) -> None:
    if not (SHARED / name).exists():
        # The rules themselves are tested above, on rows of this file's own.
        return
    file = parse_catalog(SHARED / name, currency="USD")
    parsed = [entry for entry in file if isinstance(entry, ParsedProduct)]

    assert len(parsed) == products
    assert sum(len(entry.product.variants) for entry in parsed) == variants == file.rows_total
    policies = [variant.policy for entry in parsed for variant in entry.product.variants]
    assert (policies.count("deny"), policies.count("untracked")) == (counted, variants - counted)


@pytest.mark.parametrize(
    ("cell", "note"),
    [
        ("-3", "Variant Inventory Qty is negative: -3."),
        ("'-3", 'Variant Inventory Qty is not a whole number: "\'-3".'),
        ("2.0", "Variant Inventory Qty is not a whole number: '2.0'."),
        ("many", "Variant Inventory Qty is not a whole number: 'many'."),
        (str(limits.STOCK_MAX + 1), "at most"),
        ("9" * 40, "not a whole number"),
    ],
)
def test_parse_takes_a_row_with_0_units_when_its_count_cannot_be(cell: str, note: str) -> None:
    row = {**MUG, "Variant SKU": "MUG-1", "Variant Inventory Qty": cell, "Variant Price": "16"}

    (parsed,), rejected, (told,) = told_apart(text_of(row))

    assert rejected == []
    assert parsed.product.variants[0].price_minor == 1_600
    assert parsed.quantities == {"MUG-1": 0}
    assert (told.line, told.name) == (2, "MUG-1")
    assert note in told.text
    assert told.text.endswith("If it is new, it has 0 units.")


def test_parse_names_each_counted_row_when_the_file_has_no_quantities() -> None:
    row = {name: value for name, value in MUG.items() if name != "Variant Inventory Qty"}
    rows = [{**row, "Variant SKU": "MUG-1"}, {**row, "Variant SKU": "CUP-1", "Handle": "cup"}]

    products, rejected, notes = told_apart(text_of(*rows))

    assert [parsed.quantities for parsed in products] == [{"MUG-1": 0}, {"CUP-1": 0}]
    assert rejected == []
    assert [(note.line, note.name) for note in notes] == [(2, "MUG-1"), (3, "CUP-1")]
    assert "no Variant Inventory Qty" in notes[0].text


@pytest.mark.parametrize(
    ("blank_tracker", "has_column", "policy", "quantities"),
    [
        ("untracked", True, "untracked", {}),
        ("untracked", False, "deny", {"MUG-1": 5}),
        ("deny", True, "deny", {"MUG-1": 5}),
        ("deny", False, "deny", {"MUG-1": 5}),
    ],
)
def test_parse_reads_a_blank_tracker(
    blank_tracker: BlankTracker, has_column: bool, policy: str, quantities: dict[str, int]
) -> None:
    row = {**MUG, "Variant SKU": "MUG-1", "Variant Inventory Tracker": ""}
    if not has_column:
        del row["Variant Inventory Tracker"]

    (parsed,), rejected, notes = told_apart(text_of(row), blank_tracker=blank_tracker)

    assert (rejected, notes) == ([], [])
    assert parsed.product.variants[0].policy == policy
    assert parsed.quantities == quantities


NEWER = {
    "Title": "New Tee",
    "URL handle": "new-tee",
    "Description": "<p>Soft</p>",
    "Vendor": "Ada",
    "Published on online store": "TRUE",
    "Status": "Active",
    "SKU": "NT-1",
    "Option1 name": "Size",
    "Option1 value": "M",
    "Price": "10.00",
    "Inventory tracker": "shopify",
    "Inventory quantity": "5",
    "Continue selling when out of stock": "continue",
    "Product image URL": "https://example.com/1.png",
    "Variant image URL": "https://example.com/2.png",
}


@pytest.mark.parametrize("spelling", [str, str.upper, str.lower])
@pytest.mark.parametrize("start", ["", "\ufeff", " \ufeff", "\n\ufeff", "\n \n"])
def test_parse_reads_the_newer_headers(spelling: Callable[[str], str], start: str) -> None:
    text = start + text_of({spelling(name): value for name, value in NEWER.items()})

    (parsed,), rejected, notes = told_apart(text)

    product = parsed.product
    assert (rejected, notes) == ([], [])
    assert (product.id, product.title, product.seller, product.active) == ("new-tee", "New Tee", "Ada", True)
    assert product.description == "Soft"
    assert product.images == ("https://example.com/1.png", "https://example.com/2.png")
    (variant,) = product.variants
    assert (variant.sku, variant.options, variant.policy) == ("NT-1", {"Size": "M"}, "backorder")
    assert parsed.quantities == {"NT-1": 5}


def test_parse_notes_a_head_row_that_carries_only_texts() -> None:
    head = {"Handle": "tee", "Title": "Tee", "Option1 Name": "Size"}
    row = {
        **MUG,
        "Handle": "tee",
        "Title": "",
        "Option1 Name": "",
        "Option1 Value": "M",
        "Variant SKU": "T-M",
    }

    (parsed,), rejected, (note,) = told_apart(text_of(head, row, columns=list(row)))

    assert rejected == []
    assert parsed.is_whole
    assert parsed.product.variants[0].options == {"Size": "M"}
    assert (note.line, note.name) == (2, "tee")


def test_parse_rejects_a_later_row_that_carries_nothing() -> None:
    assert "neither a variant nor an image" in reason_of(MUG, {"Handle": "mug"})
