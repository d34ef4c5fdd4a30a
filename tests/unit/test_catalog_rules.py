"""What makes a product one that can be stored and sold."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cartstore import limits
from cartstore.catalog.rules import Reach, check_product
from cartstore.errors import InvalidField
from cartstore.model import Product, PurchaseLimit, Variant


def variant(sku: str = "mug", **more: Any) -> Variant:
    return Variant(**{"sku": sku, "price_minor": 1_500, **more})


def product(*variants: Variant, **more: Any) -> Product:
    return Product(
        **{"id": "mug", "title": "Mug", "currency": "EUR", "variants": variants or (variant(),), **more}
    )


@pytest.mark.parametrize(
    "accepted",
    [
        product(),
        product(variant(price_minor=0)),
        product(variant(price_minor=limits.PRICE_MINOR_MAX)),
        product(description="two\nlines", seller="Tern", images=("https://example.com/a.png",)),
        product(
            variant("mug-s", options={"Size": "S"}, min_quantity=2, multiple_of=2, max_quantity=5),
            variant("mug-m", options={"Size": "M"}, prices_minor={"USD": 1_700}),
            options=("Size",),
        ),
        product(variant(available_on="2030-01-31", hold_ttl_seconds=60)),
        product(variant(max_per_customer=PurchaseLimit(quantity=2, window_seconds=86_400))),
    ],
)
def test_check_accepts_what_can_be_sold(accepted: Product) -> None:
    check_product(accepted)


@pytest.mark.parametrize(
    ("refused", "field"),
    [
        (product(id=""), "id"),
        (product(id="a b"), "id"),
        (product(id="mug\n"), "id"),
        (product(id="."), "id"),
        (product(id=".."), "id"),
        (product(id="import"), "id"),
        (product(variant("mug"), id="adjust"), "id"),
        (product(variant(".")), "variants[0].sku"),
        (product(variant("..")), "variants[0].sku"),
        (product(variant("adjust")), "variants[0].sku"),
        (product(variant("import")), "variants[0].sku"),
        (product(title=""), "title"),
        (product(title="a\0b"), "title"),
        (product(title="a\ud800b"), "title"),
        (product(title="a" * (limits.TEXT_LENGTH_MAX + 1)), "title"),
        (product(description="a" * (limits.DESCRIPTION_LENGTH_MAX + 1)), "description"),
        (product(description="a\0b"), "description"),
        (product(seller=""), "seller"),
        (product(images=("",)), "images[0]"),
        (product(images=("x",) * (limits.IMAGES_MAX + 1)), "images"),
        (product(currency="eur"), "currency"),
        (product(options=("A", "B", "C", "D")), "options"),
        (product(options=("A", "A")), "options"),
        (product(options=("",)), "options[0]"),
        (product(variants=()), "variants"),
        (product(options=("Size",)), "variants[0].options"),
        (product(variant(options={"Size": "S"})), "variants[0].options"),
        (product(variant(options={"Size": ""}), options=("Size",)), "variants[0].options.Size"),
        (product(variant("a/b")), "variants[0].sku"),
        (product(variant("mug~~0123456789ab")), "variants[0].sku"),
        (product(variant(), variant()), "variants[1].sku"),
        (product(variant("a"), variant("b")), "variants[1].options"),
        (product(variant(price_minor=-1)), "variants[0].price"),
        (product(variant(price_minor=limits.PRICE_MINOR_MAX + 1)), "variants[0].price"),
        (product(variant(prices_minor={"US": 1})), "currency"),
        (product(variant(prices_minor={"USD": -1})), "variants[0].prices.USD"),
        (product(variant(available_on="soon")), "variants[0].available_on"),
        (product(variant(hold_ttl_seconds=0)), "variants[0].hold_ttl_seconds"),
        (product(variant(min_quantity=0)), "variants[0].min_quantity"),
        (product(variant(multiple_of=0)), "variants[0].multiple_of"),
        (product(variant(max_quantity=0)), "variants[0].max_quantity"),
        (product(variant(min_quantity=3, max_quantity=2)), "variants[0].max_quantity"),
        (product(variant(multiple_of=4, max_quantity=3)), "variants[0].max_quantity"),
        (
            product(variant(max_per_customer=PurchaseLimit(quantity=0, window_seconds=1))),
            "variants[0].max_per_customer.quantity",
        ),
        (
            product(variant(max_per_customer=PurchaseLimit(quantity=1, window_seconds=0))),
            "variants[0].max_per_customer.window_seconds",
        ),
    ],
)
def test_check_names_the_field_that_is_wrong(refused: Product, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        check_product(refused)

    assert caught.value.field == field


def test_check_accepts_a_reserved_id_that_the_stored_product_has() -> None:
    """One from before the rule can still be changed, and taken off sale."""
    stored = product(variant("adjust"), id="import")

    check_product(product(variant("adjust"), id="import", active=False), stored)
    with pytest.raises(InvalidField, match=r"\.\. cannot be an id"):
        check_product(product(variant(".."), id="import"), stored)


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"min_quantity": 99}, None),
        ({"min_quantity": 100}, "min_quantity"),
        ({"min_quantity": 99, "multiple_of": 10}, "multiple_of"),
        ({"min_quantity": 51, "multiple_of": 50}, "multiple_of"),
        ({"multiple_of": 100}, "multiple_of"),
        ({"min_quantity": 60, "policy": "deny"}, "min_quantity"),
        ({"min_quantity": 50, "policy": "deny"}, None),
    ],
)
def test_check_refuses_a_least_quantity_that_no_cart_can_reach(
    rules: dict[str, Any], field: str | None
) -> None:
    wanted = product(variant("mug", **{"policy": "backorder", **rules}))
    refused: list[str | None] = []

    try:
        check_product(wanted, reach=Reach(units_max=99, held_max=50))
    except InvalidField as problem:
        refused.append(problem.field)

    assert refused == ([f"variants[0].{field}"] if field else [])


def test_check_accepts_a_least_quantity_that_the_stored_variant_has() -> None:
    """The shop's limits were higher when it was put."""
    stored = product(variant("mug", min_quantity=100))
    reach = Reach(units_max=99)

    check_product(msgspec.structs.replace(stored, title="Ours"), stored, reach)
    with pytest.raises(InvalidField, match="at most 99"):
        check_product(product(variant("mug", min_quantity=101)), stored, reach)
