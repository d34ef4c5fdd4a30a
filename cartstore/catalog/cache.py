"""Products by revision, kept in memory. A revision never changes, so nothing here is ever stale."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from cartstore.errors import StoreUnavailable
from cartstore.model import Product

if TYPE_CHECKING:
    from cartstore.catalog.repository import CatalogRepository

ENTRIES_MAX: Final = 10_000


class RevisionCache:
    """The most recently used revisions, at most ENTRIES_MAX."""

    def __init__(self, catalog: CatalogRepository) -> None:
        self._catalog = catalog
        self._products: OrderedDict[int, Product] = OrderedDict()

    async def get(self, revisions: Iterable[int]) -> dict[int, Product]:
        """The products in these revisions; without those that the database cannot tell right now."""
        wanted = set(revisions)
        found: dict[int, Product] = {}
        for revision in wanted:
            product = self._products.get(revision)
            if product is not None:
                self._products.move_to_end(revision)
                found[revision] = product
        missing = wanted - found.keys()
        if missing:
            try:
                loaded = await self._catalog.by_revisions(missing)
            except StoreUnavailable:
                return found
            found.update(loaded)
            self._products.update(loaded)
            while len(self._products) > ENTRIES_MAX:
                self._products.popitem(last=False)
        return found
