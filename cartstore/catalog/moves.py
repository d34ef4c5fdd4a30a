"""Whose a SKU is once a file is imported. Owns which SKUs may move, which products are stored together, and
what becomes of a product that SKUs move away from. Pure; the answer does not depend on the order of rows.

A SKU moves to the product whose rows have it when its owner does not list it, when its owner's rows are in
the file as well, or when the last import said that its owner has it. Otherwise an admin gave it to its
owner, and that product has to be deleted first. A product that loses all its variants to one that is new,
and has no rows any more, was renamed: everything it has moves along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from cartstore.catalog.import_state import LastImport, Said
from cartstore.catalog.merging import (
    EMPTIED,
    Base,
    Beside,
    Known,
    Merged,
    merged,
    row_differs,
    rows_differ,
    said_of_product,
    said_of_variant,
)
from cartstore.catalog.parsed import Note, Parsed, ParsedProduct, Rejection
from cartstore.catalog.rules import ANY_REACH, Reach, check_product
from cartstore.catalog.text import id_of
from cartstore.errors import Invalid, InvalidField
from cartstore.limits import VARIANTS_MAX
from cartstore.model import Product, Variant


class StoredProduct(msgspec.Struct, frozen=True):
    product: Product
    is_deleted: bool


class SkuOwner(msgspec.Struct, frozen=True):
    """Which product a SKU belongs to, and whether that product lists it."""

    product_id: str
    is_listed: bool


class FileIndex(msgspec.Struct, frozen=True):
    """What a whole file has, read before any of it is stored."""

    product_of_sku: Mapping[str, str]
    product_ids: frozenset[str]
    rejected: frozenset[str]
    """What rejected rows name, as SKUs: a mistake in a file takes nothing off sale."""

    @classmethod
    def of(cls, entries: Iterable[Parsed]) -> FileIndex:
        product_of_sku: dict[str, str] = {}
        product_ids: set[str] = set()
        rejected: set[str] = set()
        for entry in entries:
            if isinstance(entry, ParsedProduct):
                product_ids.add(entry.product.id)
                product_of_sku.update((variant.sku, entry.product.id) for variant in entry.product.variants)
            elif isinstance(entry, Rejection):
                rejected.add(id_of(entry.name))
        return cls(product_of_sku, frozenset(product_ids), frozenset(rejected))


class Groups:
    """Products of a file that exchange SKUs, with each other or through a product that the file lacks."""

    def __init__(self, file: FileIndex, owners: Mapping[str, SkuOwner]) -> None:
        self._parents: dict[str, str] = {}
        for sku, product_id in file.product_of_sku.items():
            owner = owners.get(sku)
            if owner is not None and owner.product_id != product_id:
                self._parents[self._root(product_id)] = self._root(owner.product_id)
        members = [product_id for product_id in self._parents if product_id in file.product_ids]
        self._sizes = Counter(self._root(product_id) for product_id in members)

    def of(self, product_id: str) -> str | None:
        """The name of the group that a product of the file is in; None when it may be stored alone."""
        if product_id not in self._parents:
            return None
        root = self._root(product_id)
        return root if self._sizes[root] > 1 else None

    def size(self, group: str) -> int:
        """The number of its products that the file has."""
        return self._sizes[group]

    def _root(self, product_id: str) -> str:
        root = product_id
        while (parent := self._parents.setdefault(root, root)) != root:
            root = parent
        while self._parents[product_id] != root:
            self._parents[product_id], product_id = root, self._parents[product_id]
        return root


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the record says of the products that are to be stored, and of the owners of their SKUs."""

    stored: Mapping[str, StoredProduct]
    owners: Mapping[str, SkuOwner]
    last: LastImport

    def product_of_sku(self, sku: str) -> Product | None:
        """The product that lists a SKU, or that listed it last, as it is stored; None for a new SKU."""
        owner = self.owners.get(sku)
        stored = self.stored.get(owner.product_id) if owner is not None else None
        return stored.product if stored is not None else None


class Resolution(msgspec.Struct, kw_only=True):
    """What is to be stored of a batch."""

    outcomes: list[Product | Invalid | None]
    """By given product, in their order; None: a deleted product that stays so."""
    products: dict[str, Product] = {}
    """All products that are to be as they are here, also those that only lost SKUs."""
    deleted: set[str] = set()
    """Those of the products that are and stay deleted."""
    said_products: dict[str, Said] = {}
    said_variants: dict[str, Said] = {}
    emptied: set[str] = set()
    """Products that an import made inactive, because they lost their last variant."""
    rejections: list[Rejection] = []
    notes: list[Note] = []
    moved: int = 0
    """SKUs that came from another product."""


def resolve(
    given: Sequence[ParsedProduct], facts: Facts, file: FileIndex, reach: Reach = ANY_REACH
) -> Resolution:
    """Decide what becomes of the products of a batch and of the products that they take SKUs from.

    A product that cannot be stored keeps its SKUs, so that none ends up nowhere; products that need one of
    those cannot be stored either. So each failure starts the whole decision anew without that product.
    """
    problems: dict[int, Invalid] = {}
    while True:
        attempt = _Attempt(given, facts, file, problems, reach)
        attempt.run()
        if not attempt.problems:
            return attempt.resolution()
        problems |= attempt.problems


class _Rows(msgspec.Struct, kw_only=True):
    """A product of the file beside what its rows are about."""

    parsed: ParsedProduct
    renamed_from: str | None
    base: Base
    listed: Sequence[Variant]
    """Variants of the file that the product is to list; the others were removed by an admin."""
    stays_deleted: bool = False

    @property
    def ids(self) -> tuple[str, ...]:
        """The product, and the one that it was before."""
        id = self.parsed.product.id
        return (id,) if self.renamed_from is None else (id, self.renamed_from)


class _Attempt:
    def __init__(
        self,
        given: Sequence[ParsedProduct],
        facts: Facts,
        file: FileIndex,
        failed: Mapping[int, Invalid],
        reach: Reach,
    ) -> None:
        self._given = given
        self._facts = facts
        self._file = file
        self._failed = failed
        self._reach = reach
        self._failed_ids = {given[number].product.id for number in failed}
        self._rows: dict[int, _Rows] = {}
        self._taken: dict[str, str] = {}
        """New owner by SKU, of those that move."""
        self._merged: dict[int, Merged] = {}
        self.problems: dict[int, Invalid] = {}

    def run(self) -> None:
        seen: set[str] = set()
        for number, parsed in enumerate(self._given):
            if number in self._failed:
                continue
            if parsed.product.id in seen:
                self.problems[number] = InvalidField("This product is given twice.", field="id")
                continue
            seen.add(parsed.product.id)
            self._rows[number] = self._rows_of(parsed)
            self._try(number, self._claim)
        for number in self._rows:
            if number not in self.problems and not self._rows[number].stays_deleted:
                self._try(number, self._merge)

    def _try(self, number: int, step: Any) -> None:
        try:
            step(number)
        except Invalid as problem:
            self.problems[number] = problem

    # --- what the rows are about ---------------------------------------------------------------

    def _rows_of(self, parsed: ParsedProduct) -> _Rows:
        last, product_id = self._facts.last, parsed.product.id
        stored = self._facts.stored.get(product_id)
        former = self._renamed_from(parsed)
        if former is not None:
            product = self._facts.stored[former].product
            base = Base(
                product=msgspec.structs.replace(product, id=product_id, first_id=product.identity),
                said=last.of_product(former),
            )
        elif stored is None or not stored.product.currency:
            # One that cannot be read has no currency, and is stored anew.
            base = Base(product=None)
        else:
            base = Base(
                product=stored.product, said=last.of_product(product_id), is_deleted=stored.is_deleted
            )
        stays_deleted = base.is_deleted and not rows_differ(parsed, base.said, last.variants)
        rows = _Rows(parsed=parsed, renamed_from=former, base=base, listed=(), stays_deleted=stays_deleted)
        if not stays_deleted:
            rows.listed = [
                variant for variant in parsed.product.variants if not self._stays_removed(rows, variant)
            ]
        return rows

    def _stays_removed(self, rows: _Rows, variant: Variant) -> bool:
        """Whether an admin removed this variant since the last import, and its row is as it was then."""
        base = rows.base
        if base.product is None or base.is_deleted or variant.sku in base.listed:
            return False
        return not row_differs(rows.parsed, variant, base.said, self._facts.last.variants)

    def _renamed_from(self, parsed: ParsedProduct) -> str | None:
        """The product that has another id in this file, or None."""
        own = self._facts.stored.get(parsed.product.id)
        if own is not None and own.product.variants:
            return None
        rows = {variant.sku for variant in parsed.product.variants}
        owners = (self._facts.owners.get(variant.sku) for variant in parsed.product.variants)
        for former in dict.fromkeys(owner.product_id for owner in owners if owner and owner.is_listed):
            if former in self._file.product_ids or former not in self._facts.stored:
                continue
            imported = frozenset(self._facts.last.of_product(former).get("variants", ()))
            listed = {variant.sku for variant in self._facts.stored[former].product.variants} & imported
            if listed and listed <= rows:
                return former
        return None

    # --- whose the SKUs are --------------------------------------------------------------------

    def _claim(self, number: int) -> None:
        rows = self._rows[number]
        for place, variant in enumerate(rows.listed):
            owner = self._facts.owners.get(variant.sku)
            if owner is None or owner.product_id in rows.ids:
                continue
            if owner.is_listed and not self._releases(owner.product_id, variant.sku):
                raise InvalidField(
                    f"SKU {variant.sku} belongs to product {owner.product_id}. Only deleting that product"
                    " frees it.",
                    field=f"variants[{place}].sku",
                    sku=variant.sku,
                )
            self._taken[variant.sku] = rows.parsed.product.id

    def _releases(self, product_id: str, sku: str) -> bool:
        if product_id in self._failed_ids:
            return False
        stored = self._facts.stored.get(product_id)
        if stored is None or not stored.product.currency:
            return False
        imported = self._facts.last.of_product(product_id).get("variants", ())
        return product_id in self._file.product_ids or sku in imported

    # --- what is stored ------------------------------------------------------------------------

    def _merge(self, number: int) -> None:
        rows = self._rows[number]
        result = merged(
            rows.parsed,
            rows.base,
            listed=rows.listed,
            beside=self._beside(rows),
            known=self._known(rows),
            said_variants=self._facts.last.variants,
        )
        product = result.product
        if not product.variants:
            product = msgspec.structs.replace(product, active=False)
        own = self._facts.stored.get(product.id)
        before = rows.base.product
        check_product(product, before, self._reach)
        kept = (before, own.product if own is not None else None)
        result.product = msgspec.structs.replace(
            product, revision=0, removed=self._removed(product, rows.ids, [its for its in kept if its])
        )
        self._merged[number] = result

    def _beside(self, rows: _Rows) -> Beside:
        product_id = rows.parsed.product.id
        imported = frozenset(rows.base.said.get("variants", ()))
        in_rows = {variant.sku for variant in rows.parsed.product.variants}
        own: list[Variant] = []
        held: list[Variant] = []
        loose: list[Variant] = []
        for sku, variant in rows.base.listed.items():
            if sku in in_rows or self._taken.get(sku, product_id) != product_id:
                continue
            if sku not in imported:
                own.append(variant)
            elif sku in self._file.rejected or sku in self._file.product_of_sku:
                held.append(variant)
            elif not rows.parsed.is_whole:
                loose.append(variant)
        return Beside(own, held, loose)

    def _known(self, rows: _Rows) -> dict[str, Known]:
        found: dict[str, Known] = {}
        for sku in (variant.sku for variant in rows.listed):
            owner = self._facts.owners.get(sku)
            stored = self._facts.stored.get(owner.product_id) if owner is not None else None
            if stored is not None:
                product = stored.product
                its = next((its for its in (*product.variants, *product.removed) if its.sku == sku), None)
                if its is not None:
                    found[sku] = Known(its, product.currency)
        return found

    def _removed(
        self, product: Product, ids: Collection[str], before: Sequence[Product]
    ) -> tuple[Variant, ...]:
        """The variants that were listed once and are not any more, newest first."""
        listed = {variant.sku for variant in product.variants}
        gone = {
            variant.sku: variant
            for stored in before
            for variant in (*stored.variants, *stored.removed)
            if variant.sku not in listed
            and self._taken.get(variant.sku, product.id) == product.id
            and self._owner_id(variant.sku) in ids
        }
        return tuple(gone.values())[:VARIANTS_MAX]

    def _owner_id(self, sku: str) -> str | None:
        owner = self._facts.owners.get(sku)
        return owner.product_id if owner is not None else None

    # --- the whole -----------------------------------------------------------------------------

    def resolution(self) -> Resolution:
        """What this attempt decided. It had no problem."""
        done = Resolution(outcomes=[])
        self._leave(done)
        for number in range(len(self._given)):
            done.outcomes.append(self._outcome(number, done))
        for product_id, product in done.products.items():
            stored = self._facts.stored.get(product_id)
            if stored is None or product.variants:
                continue
            # Also one that was emptied before, and is stored again because a removed SKU moves.
            emptied_at = self._facts.last.of_product(product_id).get(EMPTIED)
            if stored.product.active or emptied_at == stored.product.revision:
                done.emptied.add(product_id)
        return done

    def _outcome(self, number: int, done: Resolution) -> Product | Invalid | None:
        problem = self._failed.get(number)
        if problem is not None:
            return problem
        rows, result = self._rows[number], self._merged.get(number)
        product_id = rows.parsed.product.id
        refused = {rejection.name for rejection in result.rejections} if result is not None else set()
        variants = [variant for variant in rows.parsed.product.variants if variant.sku not in refused]
        said = {field: value for field, value in rows.base.said.items() if field != EMPTIED}
        listed = [variant.sku for variant in variants]
        if result is not None:
            # What is missing by a mistake was not said to be gone.
            imported = frozenset(said.get("variants", ()))
            missing = {variant.sku for variant in result.product.variants} & imported - set(listed)
            listed += sorted(missing)
        done.said_products[product_id] = {**said, **said_of_product(rows.parsed), "variants": listed}
        for variant in variants:
            before = self._facts.last.of_variant(variant.sku)
            done.said_variants[variant.sku] = {**before, **said_of_variant(rows.parsed, variant)}
        if result is None:
            return None
        done.moved += sum(
            self._owner_id(variant.sku) not in (None, product_id) for variant in result.product.variants
        )
        done.products[product_id] = result.product
        done.rejections += result.rejections
        done.notes += result.notes
        return result.product

    def _leave(self, done: Resolution) -> None:
        """Note products that are stored only because SKUs move away from them."""
        stored_anew = {self._rows[number].parsed.product.id for number in self._merged}
        renamed = {rows.renamed_from for rows in self._rows.values() if rows.renamed_from is not None}
        losers = {owner for sku in self._taken if (owner := self._owner_id(sku)) is not None}
        for product_id in sorted(renamed | (losers - stored_anew)):
            stored = self._facts.stored[product_id]
            said = self._facts.last.of_product(product_id)
            if product_id in renamed:
                # Its identity went with its SKUs: whatever this id is used for later is another product.
                identity = f"{product_id}/{stored.product.revision}"
                product = msgspec.structs.replace(stored.product, variants=(), removed=(), first_id=identity)
                said = {}
            else:
                product = msgspec.structs.replace(
                    stored.product,
                    variants=self._kept(stored.product.variants),
                    removed=self._kept(stored.product.removed),
                )
                if "variants" in said:
                    said = {**said, "variants": [sku for sku in said["variants"] if sku not in self._taken]}
            is_active = product.active and bool(product.variants)
            done.products[product_id] = msgspec.structs.replace(product, revision=0, active=is_active)
            done.said_products[product_id] = said
            if stored.is_deleted:
                done.deleted.add(product_id)

    def _kept(self, variants: Sequence[Variant]) -> tuple[Variant, ...]:
        return tuple(variant for variant in variants if variant.sku not in self._taken)
