"""Which revision last changed what a SKU is."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from cartstore.catalog.terms import OF_THIS_REVISION, carried, resolved
from cartstore.model import Product, Variant

RED = Variant(sku="tee", options={"Color": "Red"}, price_minor=100)


def product(variant: Variant = RED, **fields: Any) -> Product:
    return Product(
        **{
            "id": "p",
            "title": "Tee",
            "options": ("Color",),
            "currency": "USD",
            "variants": (variant,),
            **fields,
        }
    )


def stored(before: Product | None, wanted: Product, revision: int) -> Product:
    return resolved(replace(carried(wanted, lambda sku: _owner(before, sku)), revision=revision))


def _owner(found: Product | None, sku: str) -> Product | None:
    skus = [variant.sku for variant in (*found.variants, *found.removed)] if found is not None else []
    return found if sku in skus else None


def terms_of(found: Product) -> list[int]:
    return [variant.terms_revision for variant in (*found.variants, *found.removed)]


FIRST = stored(None, product(), 7)


def test_terms_are_those_of_the_first_revision_when_the_sku_is_new() -> None:
    assert terms_of(carried(product(), lambda _: None)) == [OF_THIS_REVISION]
    assert terms_of(FIRST) == [7]


def test_terms_stay_when_price_title_and_policy_change() -> None:
    wanted = product(replace(RED, price_minor=200, policy="backorder"), title="T-shirt", active=False)

    assert terms_of(stored(FIRST, wanted, 8)) == [7]


def test_terms_are_new_when_options_change() -> None:
    assert terms_of(stored(FIRST, product(replace(RED, options={"Color": "Blue"})), 8)) == [8]
    assert terms_of(stored(FIRST, product(replace(RED, options={"Colour": "Red"})), 8)) == [8]


def test_terms_are_new_when_the_currency_changes() -> None:
    assert terms_of(stored(FIRST, product(currency="EUR"), 8)) == [8]


def test_terms_are_new_when_the_sku_comes_from_another_product() -> None:
    assert terms_of(stored(FIRST, product(id="q"), 9)) == [9]


def test_terms_stay_when_the_whole_product_was_renamed() -> None:
    assert terms_of(stored(FIRST, product(id="q", first_id="p"), 9)) == [7]


def test_terms_stay_when_a_removed_variant_is_listed_again() -> None:
    removed = stored(FIRST, product(replace(RED, sku="mug"), removed=FIRST.variants), 8)
    assert terms_of(removed) == [8, 7]

    assert terms_of(stored(removed, product(), 9)) == [7]


def test_terms_of_a_caller_count_for_nothing() -> None:
    assert terms_of(stored(None, product(replace(RED, terms_revision=3)), 8)) == [8]
    assert terms_of(stored(FIRST, product(replace(RED, terms_revision=3)), 8)) == [7]


def test_terms_are_not_known_when_an_earlier_version_stored_the_revision() -> None:
    earlier = replace(product(), revision=5)

    assert terms_of(resolved(earlier)) == [0]
    assert terms_of(stored(earlier, product(replace(RED, price_minor=1)), 6)) == [0]
    assert terms_of(stored(earlier, product(replace(RED, options={"Color": "Blue"})), 6)) == [6]
