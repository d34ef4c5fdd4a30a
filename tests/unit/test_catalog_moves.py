"""Goal: whatever an admin does between imports, no import leaves a SKU in two products, or takes one off sale
that the file has, and its answer depends neither on the order of products nor on how often it runs.

Method: random files over few handles and SKUs, with random changes by an admin between them, are resolved
against a catalog in memory.
"""

from __future__ import annotations

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cartstore.catalog.import_state import LastImport, Said
from cartstore.catalog.merging import EMPTIED
from cartstore.catalog.moves import Facts, FileIndex, Resolution, SkuOwner, StoredProduct, resolve
from cartstore.catalog.parsed import ParsedProduct
from cartstore.catalog.rules import ANY_REACH
from cartstore.errors import Invalid
from cartstore.model import Product, Variant

HANDLES, SKUS = "abcd", "123456"

File = dict[str, str]
"""Handle by SKU."""

files = st.dictionaries(st.sampled_from(SKUS), st.sampled_from(HANDLES), min_size=1)
acts = st.tuples(
    st.sampled_from(["deactivate", "remove", "delete", "reprice"]),
    st.sampled_from(HANDLES),
    st.sampled_from(SKUS),
)


def parsed_of(file: File) -> list[ParsedProduct]:
    """A product of each handle; its SKUs are its options."""
    products = []
    for handle in sorted(set(file.values())):
        variants = tuple(
            Variant(sku=sku, options={"Size": sku}, price_minor=100)
            for sku in sorted(file)
            if file[sku] == handle
        )
        products.append(
            ParsedProduct(
                product=Product(
                    id=handle, title=handle, currency="USD", options=("Size",), variants=variants
                ),
                quantities={},
                line=1,
                name=handle,
                is_whole=True,
            )
        )
    return products


class Catalog:
    """Stores what is resolved, as the repository does."""

    def __init__(self) -> None:
        self.stored: dict[str, StoredProduct] = {}
        self.owners: dict[str, SkuOwner] = {}
        self.products: dict[str, Said] = {}
        self.variants: dict[str, Said] = {}
        self.revision = 0

    def resolve(self, given: list[ParsedProduct]) -> Resolution:
        facts = Facts(stored=self.stored, owners=self.owners, last=LastImport(self.products, self.variants))
        return resolve(given, facts, FileIndex.of(given), ANY_REACH)

    def take(self, done: Resolution) -> int:
        """The number of products that changed."""
        changed = 0
        for product in done.products.values():
            changed += self.store(product, is_deleted=product.id in done.deleted)
        self.products |= {
            id: {**said, EMPTIED: self.stored[id].product.revision} if id in done.emptied else said
            for id, said in done.said_products.items()
        }
        self.variants |= done.said_variants
        return changed

    def store(self, product: Product, *, is_deleted: bool = False) -> bool:
        before = self.stored.get(product.id)
        as_before = msgspec.structs.replace(before.product, revision=0) if before is not None else None
        if before is not None and before.is_deleted == is_deleted and as_before == product:
            return False
        self.revision += 1
        self.stored[product.id] = StoredProduct(
            msgspec.structs.replace(product, revision=self.revision), is_deleted
        )
        self.owners |= {
            sku: SkuOwner(product.id, False)
            for sku, owner in self.owners.items()
            if owner.product_id == product.id
        }
        self.owners |= {variant.sku: SkuOwner(product.id, False) for variant in product.removed}
        self.owners |= {variant.sku: SkuOwner(product.id, True) for variant in product.variants}
        return True

    def act(self, what: str, handle: str, sku: str) -> None:
        """What an admin does, where it can be done."""
        stored = self.stored.get(handle)
        if stored is None or stored.is_deleted:
            return
        product = msgspec.structs.replace(stored.product, revision=0)
        left = tuple(its for its in product.variants if its.sku != sku)
        gone = tuple(its for its in product.variants if its.sku == sku)
        if what == "delete":
            removed = (*product.variants, *product.removed)
            product = msgspec.structs.replace(product, active=False, variants=(), removed=removed)
        elif what == "deactivate":
            product = msgspec.structs.replace(product, active=False)
        elif what == "remove" and gone and left:
            product = msgspec.structs.replace(product, variants=left, removed=(*gone, *product.removed))
        elif what == "reprice" and gone:
            own = (*left, msgspec.structs.replace(gone[0], price_minor=77))
            product = msgspec.structs.replace(product, variants=own)
        self.store(product, is_deleted=what == "delete")

    def listed(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for id, stored in self.stored.items():
            for variant in stored.product.variants:
                assert variant.sku not in found
                assert self.owners[variant.sku] == SkuOwner(id, True)
                found[variant.sku] = id
            assert stored.product.variants or not stored.product.active
        return found


def check_order(catalog: Catalog, given: list[ParsedProduct]) -> Resolution:
    """What the file comes to, in both directions."""
    done, backwards = catalog.resolve(given), catalog.resolve(given[::-1])
    assert done.products == backwards.products
    assert (done.said_products, done.said_variants) == (backwards.said_products, backwards.said_variants)
    assert (done.moved, done.emptied, done.deleted) == (backwards.moved, backwards.emptied, backwards.deleted)
    return done


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(files, min_size=1, max_size=6))
@example([{"3": "c"}, {"1": "a", "2": "a", "6": "c"}, {"1": "a", "6": "a"}, {"3": "a"}, {"1": "c"}])
def test_import_puts_every_sku_where_its_file_has_it(story: list[File]) -> None:
    catalog = Catalog()
    for file in story:
        given = parsed_of(file)
        before = catalog.listed()

        catalog.take(check_order(catalog, given))

        after = catalog.listed()
        assert {sku: after.get(sku) for sku in file} == file
        # What the file does not name is off sale only where its product is in the file.
        for sku in before.keys() - file.keys():
            assert (after.get(sku) is None) == (before[sku] in file.values()) or after.get(
                sku
            ) in file.values()
        assert catalog.take(check_order(catalog, given)) == 0
        assert all(catalog.stored[handle].product.active for handle in file.values())


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(st.tuples(files, st.lists(acts, max_size=3)), min_size=1, max_size=6))
def test_import_says_the_same_twice_whatever_an_admin_did(
    story: list[tuple[File, list[tuple[str, str, str]]]],
) -> None:
    catalog = Catalog()
    for file, done_by_admin in story:
        for act in done_by_admin:
            catalog.act(*act)
            catalog.listed()
        given = parsed_of(file)
        before = catalog.listed()

        done = check_order(catalog, given)
        catalog.take(done)

        after = catalog.listed()
        assert not any(isinstance(outcome, Invalid) for outcome in done.outcomes)
        assert set(file) & before.keys() <= after.keys()
        again = check_order(catalog, given)
        assert (catalog.take(again), again.moved) == (0, 0)
        assert catalog.listed() == after
        for act in done_by_admin:
            catalog.act(*act)
        # Nothing that an admin did after an import is undone by the same file.
        as_left = dict(catalog.stored)
        catalog.take(check_order(catalog, given))
        assert catalog.stored == as_left
