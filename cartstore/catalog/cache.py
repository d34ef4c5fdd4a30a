"""Products kept in memory by revision, and variants by SKU for a moment.

A revision never changes, so nothing that is kept by revision is ever stale. What a SKU says now may change in
another process: it is kept for SKU_SECONDS, and forgotten at once where this process changes it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from cartstore.errors import StoreUnavailable
from cartstore.model import Product, Variant

if TYPE_CHECKING:
    from cartstore.catalog.repository import CatalogRepository

ENTRIES_MAX: Final = 10_000

SKU_SECONDS: Final = 1.0
"""How long another process's change of a SKU may go unseen. Only the advice of refusals depends on it, by the
quantity rules, which hardly ever change."""

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


class SkuCache:
    """Variants by SKU as they were at most SKU_SECONDS ago, or as much longer as looking anew takes; at most
    ENTRIES_MAX."""

    def __init__(self, catalog: CatalogRepository) -> None:
        self._catalog = catalog
        self._entries: OrderedDict[str, tuple[Variant | None, float]] = OrderedDict()
        self._changes = 0

    async def get(self, sku: str) -> Variant | None:
        """The variant of this SKU; None for an unknown one. Raises StoreUnavailable."""
        now = time.monotonic()
        entry = self._entries.get(sku)
        if entry is not None:
            if now < entry[1]:
                return entry[0]
            # One caller looks anew; the others have what was known meanwhile, not a queue for the database.
            self._entries[sku] = (entry[0], now + LOAD_SECONDS_MAX)
        changes = self._changes
        product = await self._catalog.find_sku(sku)
        variant = product.variant(sku) if product is not None else None
        if changes == self._changes:
            self._entries[sku] = (variant, time.monotonic() + SKU_SECONDS)
            self._entries.move_to_end(sku)
            while len(self._entries) > ENTRIES_MAX:
                self._entries.popitem(last=False)
        return variant

    def clear(self) -> None:
        """Forget everything: products were changed here. What is being read at this moment is not kept."""
        self._changes += 1
        self._entries.clear()
