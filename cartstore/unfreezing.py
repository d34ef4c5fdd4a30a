"""The command `cartstore unfreeze`: lets SKUs be sold again that a rejected event froze.

Owns what the person is told; what it does is CartStore.unfreeze_sku.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cartstore.errors import ProductNotFound
from cartstore.settings import Settings
from cartstore.terminal import complaints, output
from cartstore.wiring import open_store


async def unfreeze(skus: Sequence[str], data_dir: Path, settings: Settings) -> int:
    """Unfreeze these SKUs and print one line for each; the number that no store can have."""
    wrong = 0
    async with open_store(settings, data_dir=data_dir) as store:
        for sku in skus:
            try:
                why = await store.archive.quarantine.reason(sku)
                was_frozen = await store.unfreeze_sku(sku)
            except ProductNotFound as error:
                complaints().print(f"cartstore: {sku}: {error.message}")
                wrong += 1
                continue
            told = f"sold again; it was frozen: {why}" if was_frozen else "not frozen"
            output().print(f"{sku}: {told}")
        left = await store.archive.quarantine.counts()
    output().print(f"{left.rejected_events} events rejected, {left.frozen_skus} SKUs frozen")
    return wrong
