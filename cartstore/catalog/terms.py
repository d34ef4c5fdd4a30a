"""Which revision last changed what a SKU is: its options, its product, its currency. Owns `terms_revision`.

A revision's own number is only known once it is stored. What changes with a revision is therefore stored as
OF_THIS_REVISION, and becomes the number where the revision is read (`resolved`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from cartstore.model import Product, Variant

OF_THIS_REVISION: Final = -1


def carried(wanted: Product, product_of_sku: Callable[[str], Product | None]) -> Product:
    """`wanted` with the terms revision of each variant, `removed` ones included: the one that the SKU has,
    while its options, its currency and the identity of its product stay, else OF_THIS_REVISION.

    `product_of_sku`: the product that has a SKU so far, as it is stored; None for none.
    """
    variants_of: dict[str, dict[str, Variant]] = {}
    """By product and SKU."""

    def with_terms(variant: Variant) -> Variant:
        before = product_of_sku(variant.sku)
        terms_revision = OF_THIS_REVISION
        if before is not None and (before.identity, before.currency) == (wanted.identity, wanted.currency):
            if before.id not in variants_of:
                variants_of[before.id] = {its.sku: its for its in (*before.removed, *before.variants)}
            earlier = variants_of[before.id].get(variant.sku)
            if earlier is not None and earlier.options == variant.options:
                terms_revision = earlier.terms_revision
        return msgspec.structs.replace(variant, terms_revision=terms_revision)

    return msgspec.structs.replace(
        wanted,
        variants=tuple(with_terms(variant) for variant in wanted.variants),
        removed=tuple(with_terms(variant) for variant in wanted.removed),
    )


def resolved(product: Product) -> Product:
    """The product as it was stored under its `revision`. A revision of a version that did not keep the terms
    says 0 for every variant: not known of any change."""
    if all(its.terms_revision != OF_THIS_REVISION for its in (*product.variants, *product.removed)):
        return product

    def in_numbers(variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        return tuple(
            msgspec.structs.replace(variant, terms_revision=product.revision)
            if variant.terms_revision == OF_THIS_REVISION
            else variant
            for variant in variants
        )

    return msgspec.structs.replace(
        product, variants=in_numbers(product.variants), removed=in_numbers(product.removed)
    )
