"""WooCommerce's product export, one rule at a time."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from cartstore import limits
from cartstore.catalog import woocommerce_headers
from cartstore.catalog.headers import folded
from cartstore.catalog.importing import parse_catalog
from cartstore.catalog.parsed import Note, Parsed, ParsedProduct, Rejection
from cartstore.errors import InvalidField

SHARED = Path(__file__).parents[2].parent / "shared/data"

HEADER = (
    *("ID", "Type", "SKU", "Name", "Published", "Short description", "Description"),
    *("Date sale price starts", "Date sale price ends", "In stock?", "Stock", "Backorders allowed?"),
    *("Sold individually?", "Sale price", "Regular price", "Images", "Parent", "Position"),
    *("Attribute 1 name", "Attribute 1 value(s)", "Attribute 2 name", "Attribute 2 value(s)"),
    *("Attribute 3 name", "Attribute 3 value(s)", "Attribute 4 name", "Attribute 4 value(s)"),
)
MUG = {
    "ID": "7",
    "Type": "simple",
    "SKU": "mug",
    "Name": "Mug",
    "Published": "1",
    "In stock?": "1",
    "Stock": "5",
    "Regular price": "15",
}
TEE = {
    **MUG,
    "ID": "1",
    "Type": "variable",
    "SKU": "tee",
    "Name": "Tee",
    "Stock": "",
    "Regular price": "",
    "Attribute 1 name": "Colour",
    "Attribute 1 value(s)": "Blue, Dark Red",
    "Attribute 2 name": "Size",
    "Attribute 2 value(s)": "S, M, L",
    "Attribute 3 name": "Fabric",
    "Attribute 3 value(s)": "Cotton",
}


def variation(
    number: int, colour: str | None, size: str | None, parent: str = "tee", **cells: str
) -> dict[str, str]:
    """A variation of TEE; None: the attribute is not named at all."""
    named: dict[str, str] = {}
    for n, (name, value) in enumerate((("Colour", colour), ("Size", size)), 1):
        if value is not None:
            named |= {f"Attribute {n} name": name, f"Attribute {n} value(s)": value}
    return {
        **MUG,
        "ID": str(100 + number),
        "Type": "variation",
        "SKU": f"tee-{number}",
        "Name": "Tee",
        "Parent": parent,
        "Position": str(number),
        **named,
        **cells,
    }


def table(*rows: dict[str, str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def parse_text(text: str) -> list[Parsed]:
    return list(parse_catalog(text.encode(), currency="EUR"))


def parse(*rows: dict[str, str]) -> tuple[list[ParsedProduct], list[Rejection]]:
    entries = parse_text(table(*rows))
    return (
        [entry for entry in entries if isinstance(entry, ParsedProduct)],
        [entry for entry in entries if isinstance(entry, Rejection)],
    )


def parse_one(*rows: dict[str, str]) -> ParsedProduct:
    (parsed,), rejected = parse(*rows)
    assert rejected == []
    return parsed


def test_parse_reads_a_simple_product() -> None:
    parsed = parse_one(
        {
            **MUG,
            "Name": "Mug &amp; saucer",
            "Description": "<p>Holds tea</p>\\n\\nand coffee",
            "Images": "https://example.com/a,b.png, https://example.com/c.png,https://example.com/d.png",
            "Attribute 1 name": "Colour",
            "Attribute 1 value(s)": "Blue",
        }
    )

    product = parsed.product
    assert (product.id, product.title, product.seller, product.options) == ("mug", "Mug & saucer", None, ())
    assert product.description == "Holds tea\nand coffee"
    assert [url.rpartition("/")[2] for url in product.images] == ["a,b.png", "c.png", "d.png"]
    (variant,) = product.variants
    assert (variant.sku, variant.price_minor, variant.policy) == ("mug", 1_500, "deny")
    assert (parsed.quantities, parsed.line, parsed.name, parsed.is_whole) == ({"mug": 5}, 2, "mug", True)


def test_parse_takes_the_short_description_when_there_is_no_other() -> None:
    assert parse_one({**MUG, "Short description": "Short"}).product.description == "Short"


def test_parse_names_a_product_by_its_id_when_it_has_no_sku() -> None:
    parsed = parse_one({**MUG, "SKU": ""})

    assert (parsed.product.id, parsed.product.variants[0].sku, parsed.name) == ("id-7", "id-7", "id-7")


@pytest.mark.parametrize(
    ("cells", "policy", "quantities"),
    [
        ({"Stock": "", "In stock?": "1"}, "untracked", {}),
        ({"Stock": "", "In stock?": "1", "Backorders allowed?": "1"}, "untracked", {}),
        ({"Stock": "", "In stock?": "0"}, "deny", {"mug": 0}),
        ({"Stock": "", "In stock?": "backorder"}, "backorder", {"mug": 0}),
        ({"Stock": "0", "In stock?": "0"}, "deny", {"mug": 0}),
        ({"Stock": "5", "In stock?": "1"}, "deny", {"mug": 5}),
        ({"Stock": "5", "Backorders allowed?": "0"}, "deny", {"mug": 5}),
        ({"Stock": "5", "Backorders allowed?": "1"}, "backorder", {"mug": 5}),
        ({"Stock": "5", "Backorders allowed?": "notify"}, "backorder", {"mug": 5}),
    ],
)
def test_parse_takes_the_policy_from_what_is_counted(
    cells: dict[str, str], policy: str, quantities: dict[str, int]
) -> None:
    parsed = parse_one({**MUG, **cells})

    assert parsed.product.variants[0].policy == policy
    assert parsed.quantities == quantities


@pytest.mark.parametrize(
    ("cells", "sale"),
    [
        ({"Sale price": "12.50"}, (1_250, None, None)),
        ({"Sale price": ""}, (None, None, None)),
        ({"Sale price": "", "Date sale price ends": "2030-06-14"}, (None, None, None)),
        ({"Sale price": "0"}, (0, None, None)),
        ({"Sale price": "12", "Date sale price starts": "2030-06-16"}, (1_200, "2030-06-16", None)),
        ({"Sale price": "12", "Date sale price starts": "2030-06-16 00:00:00"}, (1_200, "2030-06-16", None)),
        ({"Sale price": "12", "Date sale price ends": "2030-06-15 23:59:59"}, (1_200, None, "2030-06-15")),
        ({"Sale price": "12", "Date sale price ends": "2030-06-15 00:00:00"}, (1_200, None, "2030-06-15")),
        (
            {
                "Sale price": "12",
                "Date sale price starts": "2030-01-01 08:30:00",
                "Date sale price ends": "2030-01-01T18:00:00+02:00",
            },
            (1_200, "2030-01-01T08:30:00+00:00", "2030-01-01T18:00:00+02:00"),
        ),
        (
            {
                "Sale price": "12",
                "Date sale price starts": "2030-01-02",
                "Date sale price ends": "2030-01-01",
            },
            (None, None, None),
        ),
    ],
)
def test_parse_takes_the_sale_price_with_its_dates(
    cells: dict[str, str], sale: tuple[int | None, str | None, str | None]
) -> None:
    variant = parse_one({**MUG, **cells}).product.variants[0]

    assert variant.price_minor == 1_500
    assert (variant.sale_price_minor, variant.sale_from, variant.sale_to) == sale


@pytest.mark.parametrize(
    ("stock", "text"),
    [
        ("-2", "Stock is negative"),
        ("'-2", "Stock is negative"),
        ("2.0", "not a whole number"),
        ("some", "not a whole number"),
        (str(limits.STOCK_MAX + 1), "at most"),
    ],
)
def test_parse_takes_a_row_whose_count_cannot_be_with_no_units(stock: str, text: str) -> None:
    parsed, note = parse_text(table({**MUG, "Stock": stock, "Backorders allowed?": "1"}))

    assert isinstance(note, Note)
    assert (note.line, note.name) == (2, "mug")
    assert text in note.text
    assert isinstance(parsed, ParsedProduct)
    assert parsed.product.variants[0].policy == "backorder"
    assert parsed.quantities == {"mug": 0}


def test_parse_shares_nothing_of_a_count_at_the_parent_that_cannot_be() -> None:
    note, parsed = parse_text(
        table(
            {**TEE, "Stock": "-4"},
            variation(1, "Blue", "S", Stock="parent"),
            variation(2, "Red", "S", Stock=""),
        )
    )

    assert isinstance(note, Note)
    assert note.name == "tee"
    assert isinstance(parsed, ParsedProduct)
    assert parsed.quantities == {"tee-1": 0, "tee-2": 0}
    assert {variant.policy for variant in parsed.product.variants} == {"deny"}


def test_parse_takes_a_file_without_counts_and_says_no_policy() -> None:
    parsed, note = parse_text("Type,SKU,Name,In stock?,Regular price\nsimple,mug,Mug,1,15\n")

    assert isinstance(note, Note)
    assert "no Stock" in note.text
    assert isinstance(parsed, ParsedProduct)
    assert (parsed.product.active, parsed.product.variants[0].policy) == (True, "deny")
    assert parsed.quantities == {"mug": 0}
    assert parsed.variant_says == {"options", "price_minor"}
    assert "active" not in parsed.says


@pytest.mark.parametrize("cell", ["'@home", "'=1+1", "'-5", "'+5"])
def test_parse_undoes_the_apostrophe_of_the_exporter(cell: str) -> None:
    name, value = {**MUG, "Name": cell}, variation(1, cell, "S")
    tee = {**TEE, "Attribute 1 value(s)": cell}

    assert parse_one(name).product.title == cell[1:]
    assert parse_one(tee, value).product.variants[0].options["Colour"] == cell[1:]


def test_parse_leaves_other_apostrophes() -> None:
    assert parse_one({**MUG, "Name": "'s Gravenhage"}).product.title == "'s Gravenhage"


@pytest.mark.parametrize(("cell", "value"), [("1\\,5 m", "1,5 m"), ("wide\\nand long", "wide and long")])
def test_parse_undoes_the_backslashes_of_variations_as_of_their_product(cell: str, value: str) -> None:
    tee = {**TEE, "Attribute 1 value(s)": f"{cell}, 2 m"}
    named, any_other = variation(1, cell, "S", **{"Regular price": "4"}), variation(2, "", "S")

    parsed = parse_one(tee, named, any_other)

    prices = {its.options["Colour"]: (its.sku, its.price_minor) for its in parsed.product.variants}
    assert prices[value] == ("tee-1", 400)
    assert set(prices) == {value, "2 m"}


def test_parse_finds_products_and_variations_without_ids() -> None:
    text = (
        "Type,SKU,Name,Published,In stock?,Stock,Regular price,Parent,Attribute 1 name,Attribute 1 value(s)\n"
        'variable,tee,Tee,1,1,,,,Size,"S, M"\n'
        "variation,,Tee,1,1,3,15,tee,Size,S\n"
        "variation,tee-m,Tee,1,1,4,15,tee,Size,M\n"
    )

    (parsed,) = parse_text(text)

    assert isinstance(parsed, ParsedProduct)
    assert parsed.quantities == {"tee.s": 3, "tee-m": 4}


@pytest.mark.parametrize(
    "header",
    [
        "ID,Тип,Артикул,Имя,Опубликован,Наличие,Запасы,Базовая цена,Родительский,"
        "Название атрибута 1,Значения атрибутов 1",
        "ID,Тип,Артикул,Имя,Опубликован,В наличии?,Запасы,Базовая цена,Родительский,"
        "Имя атрибута 1,Значение(-я) аттрибута(-ов) 1",
        "ID,Typ,Artikelnummer,Name,Veröffentlicht,Vorrätig?,Bestand,Regulärer Preis,Übergeordnetes Produkt,"
        "Attribut 1 Name,Attribut 1 Wert(e)",
        "ID,Tipo,SKU,Nombre,Publicado,¿En inventario?,Inventario,Precio normal,Superior,"
        "Nombre del atributo 1,Valor(es) del atributo 1",
        "ID,Type,UGS,Nom,Publié,En stock\u00a0?,Stock,Tarif régulier,Parent,"
        "Nom de l’attribut 1,Valeur(s) de l’attribut 1 ",
        "ID,Tipo,COD,Nome,Pubblicato,In stock?,Magazzino,Prezzo di listino,Genitore,"
        "Attributo 1 nome,Attributo 1 valuta(e)",
        "id,TYPE,sku,name,published,in STOCK?,stock,regular price,parent,attribute 1 name,"
        "attribute 1 value(s)",
    ],
)
def test_parse_reads_headers_in_the_languages_of_the_exporter(header: str) -> None:
    rows = "1,variable,tee,Tee,1,1,,,,Size,S\n2,variation,tee-s,Tee,1,1,3,15,tee,Size,S\n"

    (parsed,) = parse_text(f"{header}\n{rows}")

    assert isinstance(parsed, ParsedProduct)
    assert parsed.product.variants[0].options == {"Size": "S"}
    assert parsed.quantities == {"tee-s": 3}
    assert {"policy", "price_minor"} <= parsed.variant_says


def test_headers_of_no_language_mean_two_things() -> None:
    names = [folded(name) for own, others in woocommerce_headers._NAMES.items() for name in {own, *others}]

    assert len(set(names)) == len(names)


def test_parse_takes_columns_by_the_names_that_it_is_told() -> None:
    text = b"Soort,Code,Naam,Prijs,Voorraad\nsimple,mug,Mug,15,3\n"
    names = {"soort": "Type", "Code": "SKU", "Naam": "Name", "Prijs": "regular PRICE", "Voorraad": "Stock"}

    (parsed,) = parse_catalog(text, currency="EUR", columns=names)

    assert isinstance(parsed, ParsedProduct)
    assert parsed.quantities == {"mug": 3}
    with pytest.raises(InvalidField, match="no column 'Kode'"):
        parse_catalog(text, currency="EUR", columns={"Kode": "SKU"})
    with pytest.raises(InvalidField, match="'Barcode' is no column"):
        parse_catalog(text, currency="EUR", columns={"Code": "Barcode"})


def test_parse_says_only_the_sale_columns_that_the_file_has() -> None:
    header = "ID,Type,SKU,Name,Published,In stock?,Stock,Regular price"
    with_sale = f"{header},Sale price\n7,simple,mug,Mug,1,1,5,15,12\n".encode()
    without = f"{header}\n7,simple,mug,Mug,1,1,5,15\n".encode()

    says = [next(iter(parse_catalog(file, currency="EUR"))) for file in (with_sale, without)]

    assert [
        {field for field in parsed.variant_says if field.startswith("sale_")}
        for parsed in says
        if isinstance(parsed, ParsedProduct)
    ] == [{"sale_price_minor"}, set()]


@pytest.mark.parametrize(("published", "active"), [("1", True), ("0", False), ("-1", False)])
def test_parse_takes_what_is_not_published_for_inactive(published: str, active: bool) -> None:
    assert parse_one({**MUG, "Published": published}).product.active is active


def test_parse_limits_what_is_sold_one_at_a_time() -> None:
    assert parse_one({**MUG, "Sold individually?": "1"}).product.variants[0].max_quantity == 1
    assert parse_one(MUG).product.variants[0].max_quantity is None

    tee = parse_one({**TEE, "Sold individually?": "1"}, variation(1, "Blue", "S"))
    assert tee.product.variants[0].max_quantity == 1


@pytest.mark.parametrize("type_", ["simple, downloadable, virtual", "Simple", "downloadable, simple"])
def test_parse_takes_simple_products_of_every_kind(type_: str) -> None:
    assert parse_one({**MUG, "Type": type_}).name == "mug"


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"Type": "grouped"}, "grouped product"),
        ({"Type": "external"}, "external product"),
        ({"Type": "subscription"}, "'subscription' cannot be imported"),
        ({"Type": ""}, "cannot be imported"),
        ({"Regular price": ""}, "Regular price is blank"),
        ({"Regular price": "", "Sale price": "5"}, "Regular price is blank"),
        ({"Regular price": "free"}, "not an amount"),
        ({"Sale price": "-5"}, "not an amount"),
        ({"Regular price": "1.005"}, "decimals"),
        ({"Published": "yes"}, "Published is 'yes'"),
        ({"SKU": "", "ID": ""}, "neither SKU nor ID"),
        ({"Name": ""}, "title must have"),
        ({"Sale price": "5", "Date sale price ends": "soon"}, "not a date"),
    ],
)
def test_parse_rejects_a_row_and_takes_the_others(cells: dict[str, str], reason: str) -> None:
    (parsed,), (rejection,) = parse({**MUG, "SKU": "cup", "ID": "8", **cells}, MUG)

    assert parsed.name == "mug"
    assert rejection.line == 2
    assert reason in rejection.reason


def test_parse_rejects_a_sku_that_the_file_has_already() -> None:
    (_,), (rejection,) = parse(MUG, {**MUG, "ID": "8"})

    assert (rejection.line, rejection.name) == (3, "mug")
    assert "on line 2 already" in rejection.reason


def test_parse_leaves_out_an_image_without_an_address() -> None:
    (parsed,), (rejection,) = parse({**MUG, "Images": "mug.png"})

    assert parsed.product.images == ()
    assert "left out" in rejection.reason


def test_parse_rejects_a_row_with_more_cells_than_the_header() -> None:
    text = ",".join(HEADER) + "\n" + ",".join(MUG.get(column, "") for column in HEADER) + ",surplus\n"

    (rejection,) = parse_catalog(text.encode(), currency="EUR")

    assert isinstance(rejection, Rejection)
    assert "cells" in rejection.reason


def test_parse_leaves_out_images_beyond_the_most() -> None:
    urls = ", ".join(f"https://example.com/{n}.png" for n in range(limits.IMAGES_MAX + 1))
    (parsed,), (rejection,) = parse({**MUG, "Images": urls})

    assert len(parsed.product.images) == limits.IMAGES_MAX
    assert "at most 250" in rejection.reason


# --- variable products ---------------------------------------------------------------------------


def test_parse_makes_a_variant_of_each_variation() -> None:
    parsed = parse_one(
        {**TEE, "Images": "https://example.com/tee.png"},
        variation(2, "Dark Red", "M", **{"Regular price": "17"}),
        variation(1, "Blue", "S", Images="https://example.com/blue.png"),
    )

    assert parsed.product.options == ("Colour", "Size")
    assert [(variant.sku, variant.options, variant.price_minor) for variant in parsed.product.variants] == [
        ("tee-1", {"Colour": "Blue", "Size": "S"}, 1_500),
        ("tee-2", {"Colour": "Dark Red", "Size": "M"}, 1_700),
    ]
    assert parsed.quantities == {"tee-1": 5, "tee-2": 5}
    assert parsed.product.images == ("https://example.com/tee.png", "https://example.com/blue.png")
    assert (parsed.line, parsed.name, parsed.is_whole) == (2, "tee", True)


@pytest.mark.parametrize("parent", ["tee", "id:1"])
def test_parse_finds_the_parent_by_sku_or_id_wherever_it_stands(parent: str) -> None:
    parsed = parse_one(variation(1, "Blue", "S", parent), TEE, variation(2, "Blue", "M", parent))

    assert [variant.sku for variant in parsed.product.variants] == ["tee-1", "tee-2"]


def test_parse_expands_a_blank_attribute_to_every_value() -> None:
    parsed = parse_one(TEE, variation(1, "Blue", "", Stock=""))

    assert [(variant.sku, variant.options) for variant in parsed.product.variants] == [
        ("tee-1.s", {"Colour": "Blue", "Size": "S"}),
        ("tee-1.m", {"Colour": "Blue", "Size": "M"}),
        ("tee-1.l", {"Colour": "Blue", "Size": "L"}),
    ]
    assert all(variant.policy == "untracked" for variant in parsed.product.variants)
    assert parsed.quantities == {}


def test_parse_expands_every_blank_attribute_of_a_variation() -> None:
    parsed = parse_one(TEE, variation(1, "", ""))

    assert [variant.sku for variant in parsed.product.variants] == [
        *("tee-1.blue.s", "tee-1.blue.m", "tee-1.blue.l"),
        *("tee-1.dark-red.s", "tee-1.dark-red.m", "tee-1.dark-red.l"),
    ]


def test_parse_shares_the_stock_of_a_variation_among_what_it_expands_to() -> None:
    parsed = parse_one(TEE, variation(1, "Blue", "", Stock="5"))

    assert parsed.quantities == {"tee-1.s": 2, "tee-1.m": 2, "tee-1.l": 1}


@pytest.mark.parametrize("stock", ["parent", ""])
def test_parse_shares_the_stock_of_a_parent_among_the_variations_that_it_counts(stock: str) -> None:
    parsed = parse_one(
        {**TEE, "Stock": "7", "Backorders allowed?": "1"},
        variation(1, "Blue", "S", Stock=stock),
        variation(2, "Blue", "M", Stock=stock),
        variation(3, "Blue", "L", Stock="9"),
    )

    assert parsed.quantities == {"tee-1": 4, "tee-2": 3, "tee-3": 9}
    assert [variant.policy for variant in parsed.product.variants] == ["backorder", "backorder", "deny"]


def test_parse_takes_an_unnamed_attribute_for_any_value() -> None:
    parsed = parse_one(TEE, variation(1, "Blue", "S"), variation(2, "Dark Red", None))

    assert [variant.sku for variant in parsed.product.variants] == ["tee-1", "tee-2.s", "tee-2.m", "tee-2.l"]


def test_parse_leaves_attributes_that_no_variation_names_out_of_the_options() -> None:
    parsed = parse_one(TEE, variation(1, "Blue", None))

    assert parsed.product.options == ("Colour",)
    assert parsed.product.variants[0].sku == "tee-1"


def test_parse_sells_the_first_variation_that_fits() -> None:
    parsed = parse_one(TEE, variation(2, "Blue", "", **{"Regular price": "20"}), variation(1, "Blue", "M"))

    assert [(variant.sku, variant.price_minor) for variant in parsed.product.variants] == [
        ("tee-1", 1_500),
        ("tee-2.s", 2_000),
        ("tee-2.l", 2_000),
    ]


def test_parse_spells_values_as_the_parent_does_and_reads_escaped_commas() -> None:
    parsed = parse_one(
        {**TEE, "Attribute 1 value(s)": "Blue\\, light, Red &amp; white"},
        variation(1, "blue, LIGHT", "S"),
        variation(2, "red & white", "S"),
    )

    assert [variant.options["Colour"] for variant in parsed.product.variants] == [
        "Blue, light",
        "Red & white",
    ]


def test_parse_rejects_a_variation_and_takes_the_others() -> None:
    (parsed,), rejected = parse(
        TEE,
        variation(1, "Blue", "S"),
        variation(2, "Blue", "S"),
        variation(3, "Blue", "M", **{"Regular price": ""}),
        variation(4, "Blue", "M", Published="0"),
        variation(5, "Blue", "M", SKU="tee-1"),
        variation(6, "Blue", "M", **{"Attribute 4 name": "Length", "Attribute 4 value(s)": "Long"}),
        variation(7, "Blue", "M", parent="gone"),
        variation(8, "Blue", "M", parent=""),
    )

    reasons = {rejection.line: rejection.reason for rejection in rejected}
    assert [variant.sku for variant in parsed.product.variants] == ["tee-1"]
    assert parsed.is_whole is False
    assert "cover all its options" in reasons[4]
    assert "Regular price is blank" in reasons[5]
    assert "not published" in reasons[6]
    assert "on line 3 already" in reasons[7]
    assert "no attribute length" in reasons[8]
    assert "'gone' is no variable product" in reasons[9]
    assert "names no parent" in reasons[10]
    assert len(rejected) == 7


def test_parse_rejects_a_variation_of_a_simple_product() -> None:
    (_,), (rejection,) = parse(MUG, variation(1, "Blue", "S", parent="mug"))

    assert "no variable product" in rejection.reason


def test_parse_rejects_a_blank_attribute_whose_values_are_unknown() -> None:
    products, rejected = parse({**TEE, "Attribute 2 value(s)": ""}, variation(1, "Blue", ""))

    assert products == []
    assert "lists none" in rejected[0].reason
    assert "no variation that could be taken" in rejected[1].reason


def test_parse_names_parent_and_variations_of_a_product_that_cannot_be_imported() -> None:
    products, rejected = parse({**TEE, "Name": ""}, variation(1, "Blue", "S"), variation(2, "Blue", ""))

    assert products == []
    assert sorted(rejection.line for rejection in rejected) == [2, 3, 4]
    assert all("title must have" in rejection.reason for rejection in rejected)


def test_parse_rejects_more_attributes_than_a_product_may_vary_by() -> None:
    four = {f"Attribute {n} name": f"A{n}" for n in range(1, 5)}
    values = {f"Attribute {n} value(s)": "x" for n in range(1, 5)}
    products, rejected = parse({**TEE, **four, **values}, variation(1, None, None, **four, **values))

    assert products == []
    assert "more than 3 attributes" in rejected[0].reason


def test_parse_rejects_a_variation_without_any_attribute() -> None:
    products, rejected = parse(TEE, variation(1, None, None))

    assert products == []
    assert "names no attribute" in rejected[0].reason


def test_parse_rejects_an_expansion_beyond_the_most_variants() -> None:
    many = ", ".join(f"v{n}" for n in range(60))
    products, rejected = parse(
        {**TEE, "Attribute 1 value(s)": many, "Attribute 2 value(s)": many}, variation(1, "", "")
    )

    assert products == []
    assert f"more than {limits.VARIANTS_MAX}" in rejected[0].reason


def test_parse_takes_or_names_every_row_of_the_real_export() -> None:
    path = SHARED / "woocommerce-sample_products.csv"
    if not path.exists():
        # The rules themselves are tested above, on rows of this file's own.
        return
    entries = list(parse_catalog(path, currency="USD"))
    products = {entry.name: entry for entry in entries if isinstance(entry, ParsedProduct)}
    rejected = [entry for entry in entries if isinstance(entry, Rejection)]

    assert [(rejection.line, rejection.name) for rejection in rejected] == [
        (17, "cc-logo-collection"),
        (18, "cp-donation"),
    ]
    assert len(products) == 13
    assert len(products["cc-tee"].product.variants) == 9
    assert len(products["cc-hoodie"].product.variants) == 6
    beanie = products["cc-beanie"].product.variants[0]
    assert (beanie.price_minor, beanie.sale_price_minor) == (2_000, 1_800)
    assert all(
        variant.policy == "untracked" for entry in products.values() for variant in entry.product.variants
    )
