"""The engine's side of loading purchases from the record (`recovery.purchases.CountingEngine`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from cartstore.archive.purchases import Purchase
from cartstore.model import Position
from cartstore.recovery.purchases import Mode, Unloaded
from cartstore.redis.scripts import script
from cartstore.redis.store import RedisEngine

_LISTED_MAX: Final = 1_000

_encode = msgspec.json.Encoder().encode


class PurchaseCounts:
    """What one partition's engine counts against purchase limits."""

    def __init__(self, engine: RedisEngine) -> None:
        self._engine = engine

    async def unloaded(self) -> Unloaded:
        keys = self._engine.keys
        _, now_ms, position, *parts = await self._engine.call(
            script("bought_list_unloaded"), (keys.gate,), _LISTED_MAX
        )
        return Unloaded(
            now_ms=int(now_ms),
            position=Position.parse(position) if position else Position(0, 0),
            window_ms_by_sku={
                sku: int(window) for sku, window in zip(*[iter(parts)] * 2, strict=True) if window != "0"
            },
        )

    async def bought(self, sku: str, cart_id: str) -> int:
        """Units of a SKU that count against its purchase limit for a cart; 0 where it has none."""
        keys = self._engine.keys
        reply = await self._engine.call(script("bought_read"), (keys.gate, keys.sku(sku), keys.cart(cart_id)))
        return int(reply[1])

    async def load(
        self, sku: str, page: Sequence[Purchase], *, mode: Mode, since_ms: int, recorded_ms: int | None
    ) -> int:
        keys = self._engine.keys
        reply = await self._engine.call(
            script("bought_load"),
            (keys.gate, keys.sku(sku)),
            mode,
            since_ms,
            "" if recorded_ms is None else recorded_ms,
            *(_encode(_parts(purchase)).decode() for purchase in page),
        )
        return int(reply[1])


def _parts(purchase: Purchase) -> tuple[str, ...]:
    return (
        *(purchase.order_id, purchase.payment_id, str(purchase.at_ms), str(purchase.units)),
        *("1" if purchase.counts else "0", *purchase.identities),
    )
