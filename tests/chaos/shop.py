"""A small shop for the attacks: what is sold, who buys, and the proof that the books balance."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import cartstore
from cartstore import Owner, Product, Variant
from cartstore.errors import StoreError
from cartstore.model import Checkout
from cartstore.recovery.reconcile import Reconciler
from cartstore.recovery.report import table
from cartstore.store import CartStore

from .actors import settings_of

SKUS = ("a", "b", "c")
UNITS = 100
_keys = itertools.count()


@asynccontextmanager
async def opened(redis_url: str, database_url: str, **settings: Any) -> AsyncIterator[CartStore]:
    """A store that archives only when it is told to."""
    async with cartstore.open_store(
        settings_of(redis_url, database_url, **settings), doorbell=lambda: None
    ) as store:
        yield store


async def stock_up(store: CartStore, skus: Sequence[str] = SKUS, units: int = UNITS) -> None:
    variants = tuple(Variant(sku=sku, options={"Size": sku}, price_minor=1_000) for sku in skus)
    await store.put_product(
        Product(id="tee", title="Tee", currency="USD", options=("Size",), variants=variants)
    )
    for sku in skus:
        await store.adjust_stock(sku, units, reason="delivery", reference="1")


async def check_out(
    store: CartStore, owner: Owner, sku: str = "a", quantity: int = 1, *, key: str | None = None
) -> Checkout:
    await store.add_line(owner, sku, quantity)
    return await store.begin_checkout(
        owner, idempotency_key=key or f"key {next(_keys)}", gateway="simulated", payment_method="card"
    )


async def buy(store: CartStore, owner: Owner, sku: str = "a", quantity: int = 1) -> str:
    """Buy and pay; the payment's id."""
    checkout = await check_out(store, owner, sku, quantity)
    await store.apply_verdict(checkout.payment.payment_id, "succeeded")
    return checkout.payment.payment_id


async def until_open(store: CartStore) -> None:
    """What every worker does each second: try to recover until the gate is open."""
    async with asyncio.timeout(60):
        while not (await store.readiness())["checks"]["gate"]["ok"]:
            with suppress(StoreError):
                await store.recover()
            await asyncio.sleep(0.05)


async def assert_sound(store: CartStore, units: int = UNITS, skus: Sequence[str] = SKUS) -> None:
    """No drift of any kind, and every unit that was delivered is on hand or sold, in both stores."""
    await store.drain_outbox()
    await store.snapshot_carts()
    report = await Reconciler(store, confirm_seconds=0.05).run(repair=False)
    assert not report.drift, table(report)
    _, totals = await store.archive.stock_totals(list(skus))
    for sku in skus:
        level = await store.read_stock(sku)
        assert level.on_hand + level.sold == units, level
        assert level.held <= level.on_hand, level
        assert (totals[sku].on_hand, totals[sku].sold) == (level.on_hand, level.sold), sku
