"""How long a shop took no writes after a fault. Owns the measuring; is told of every call as it ends."""

from __future__ import annotations

import asyncio
import time

from .history import CART_WRITES, MONEY, Call

ORDER_WRITES = frozenset({"checkout", "cancel", *MONEY})


class Meter:
    """Of one fault, from the moment that it struck: the longest time between two accepted writes of carts,
    and of checkouts, payments and cancellations. Only calls that began after the fault count."""

    def __init__(self) -> None:
        self._struck_at = 0.0
        self._calm_from = float("inf")
        self._last = {"carts": 0.0, "orders": 0.0}
        self._longest = {"carts": 0.0, "orders": 0.0}
        self._calm: set[str] = set()
        self._is_calm = asyncio.Event()

    def start(self, struck_at: float) -> None:
        self._struck_at = struck_at
        self._calm_from = float("inf")
        self._last = dict.fromkeys(self._last, struck_at)
        self._longest = dict.fromkeys(self._longest, 0.0)
        self._calm = set()
        self._is_calm.clear()

    def on_call(self, call: Call) -> None:
        if call.verdict != "ok" or call.began < self._struck_at:
            return
        what = "carts" if call.verb in CART_WRITES else "orders" if call.verb in ORDER_WRITES else None
        if what is None:
            return
        self._longest[what] = max(self._longest[what], call.ended - self._last[what])
        self._last[what] = call.ended
        if call.began >= self._calm_from:
            self._calm.add(what)
            if len(self._calm) == len(self._last):
                self._is_calm.set()

    async def until_calm(self, seconds: float) -> tuple[float, float]:
        """Wait until writes of both kinds were accepted that began from now on; the longest pauses of both
        since the fault. TimeoutError when none are."""
        self._calm_from = time.time()
        async with asyncio.timeout(seconds):
            await self._is_calm.wait()
        return self._longest["carts"], self._longest["orders"]
