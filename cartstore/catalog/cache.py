"""Products by revision, kept in memory. A revision never changes, so nothing here is ever stale."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from cartstore.errors import StoreUnavailable
from cartstore.model import Product

if TYPE_CHECKING:
    from cartstore.catalog.repository import CatalogRepository

ENTRIES_MAX: Final = 10_000

LOAD_SECONDS_MAX: Final = 1.0
"""What a cart waits for the names of its lines."""

AWAY_SECONDS: Final = 2.0
"""After a failure the database is not asked again for so long."""


class RevisionCache:
    """The most recently used revisions, at most ENTRIES_MAX."""

    def __init__(self, catalog: CatalogRepository) -> None:
        self._catalog = catalog
        self._products: OrderedDict[int, Product] = OrderedDict()
        self._away_until = 0.0

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
        if missing and time.monotonic() >= self._away_until:
            try:
                async with asyncio.timeout(LOAD_SECONDS_MAX):
                    loaded = await self._catalog.by_revisions(missing)
            except (StoreUnavailable, TimeoutError):
                # Carts go on without names; not every call meanwhile is to wait for a database that hangs.
                self._away_until = time.monotonic() + AWAY_SECONDS
                return found
            found.update(loaded)
            self._products.update(loaded)
            while len(self._products) > ENTRIES_MAX:
                self._products.popitem(last=False)
        return found
