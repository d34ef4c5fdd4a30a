"""Fills a shop: its catalog by the store's own verbs, its carts by the store's own scripts, pipelined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import uvloop

from benchmarks import pipeline
from benchmarks.servers import NAMESPACE, Servers
from benchmarks.workload import SKUS, lines_of_carts, sku_name, user_name
from cartstore import open_store
from cartstore.layout import LAYOUT
from cartstore.model import NO_GUARD, CartTerms, Partition, Product, PutItem, SkuFields, Variant
from cartstore.redis.caller import PooledCaller, open_pool
from cartstore.redis.gate import Gate, open_gate
from cartstore.redis.keys import Keys
from cartstore.redis.store import RedisEngine
from cartstore.store import CartStore

STOCK: Final = 10**9
"""Units of every SKU: nothing sells out unless a benchmark wants it to."""

VARIANTS: Final = 10
"""Per product."""

LIFETIME_MS: Final = 7_200_000
TERMS: Final = CartTerms(
    hold_ttl_ms=1_800_000,
    hold_cap_ms=LIFETIME_MS,
    hold_rest_ms=10_000,
    cart_ttl_ms=30 * 86_400_000,
    quantity_max=2**31,
    lines_max=100,
    items_max=2**31,
    held_max=2**31,
    guest_share_ppm=1_000_000,
    reservations=True,
)


def cart_id_of(number: int) -> str:
    return f"u.{user_name(number)}"


def identity_of(found: Servers) -> str:
    server, replication = found.client.info("server"), found.client.info("replication")
    return f"{LAYOUT}/{server['run_id']}:{replication['master_replid']}"


def open_engine(
    found: Servers, *, skus: int = SKUS, stock: int = STOCK, sold_out: Sequence[str] = ()
) -> None:
    """An empty engine with an open gate, these SKUs, and no record behind it. `sold_out` have no units."""
    found.client.flushall()
    uvloop.run(_open_engine(found, skus, stock, sold_out))
    pipeline.load_scripts(found)


async def _open_engine(found: Servers, skus: int, stock: int, sold_out: Sequence[str]) -> None:
    pool = open_pool(found.engine.url())
    try:
        caller = PooledCaller(pool)
        keys = Keys(Partition(NAMESPACE))
        await open_gate(caller, keys, seen=Gate(), epoch=1, seq=0, change=0, lifetime_ms=LIFETIME_MS)
        engine = RedisEngine(caller, Partition(NAMESPACE))
        await engine.publish_skus(
            [
                SkuFields(
                    sku=sku,
                    product_id=f"P-{number:04d}",
                    seller="",
                    revision=number + 1,
                    price_minor=1_999,
                    currency="USD",
                    is_active=True,
                    policy="deny",
                    hold_policy="on_add",
                    hold_ttl_ms=0,
                    min_quantity=1,
                    max_quantity=0,
                    multiple_of=1,
                )
                for number, sku in enumerate([*map(sku_name, range(skus)), *sold_out])
            ]
        )
        for start in range(0, skus if stock else 0, 64):
            await asyncio.gather(
                *(_receive(engine, number, stock) for number in range(start, min(start + 64, skus)))
            )
    finally:
        await pool.disconnect()


async def _receive(engine: RedisEngine, number: int, stock: int) -> None:
    await engine.adjust_stock(
        sku_name(number), delta=stock, reason="benchmark", reference="benchmark", fingerprint="benchmark"
    )


@asynccontextmanager
async def opened(found: Servers, **changes: Any) -> AsyncIterator[CartStore]:
    """A store on these servers that leaves archiving to whoever does it."""
    async with open_store(found.settings(**changes), doorbell=lambda: None) as store:
        yield store


def open_shop(found: Servers, *, skus: int = SKUS, stock: int = STOCK) -> None:
    """A shop with a catalog in the record, and units of everything."""
    uvloop.run(_open_shop(found, skus, stock))
    pipeline.load_scripts(found)


async def _open_shop(found: Servers, skus: int, stock: int) -> None:
    from cartstore.archive import migrate

    await migrate(found.settings().database_url)
    async with opened(found, checkout_ack="engine") as store:
        for first in range(0, skus, VARIANTS):
            numbers = range(first, min(first + VARIANTS, skus))
            await store.put_product(
                Product(
                    id=f"P-{first:04d}",
                    title=f"Product {first:04d}",
                    options=("Size",),
                    currency="USD",
                    images=(f"https://shop.example/images/{first:04d}.jpg",),
                    variants=tuple(
                        Variant(sku=sku_name(number), options={"Size": f"{number}"}, price_minor=1_999)
                        for number in numbers
                    ),
                )
            )
        if stock:
            for start in range(0, skus, 64):
                await asyncio.gather(
                    *(_receive(store.engine, n, stock) for n in range(start, min(start + 64, skus)))  # type: ignore[arg-type]
                )
        await store.drain_outbox()


def sell_out(found: Servers, sku: str) -> None:
    """Take away what is left of a SKU."""
    uvloop.run(_sell_out(found, sku))


async def _sell_out(found: Servers, sku: str) -> None:
    async with opened(found, checkout_ack="engine") as store:
        level = await store.read_stock(sku)
        await store.adjust_stock(sku, level.held - level.on_hand, reason="benchmark", reference="sold out")


def packed_adds(
    packer: pipeline.Packer,
    who: Sequence[tuple[int, str]],
    terms: CartTerms = TERMS,
    *,
    as_script: bool = False,
) -> list[bytes]:
    """One add of one unit per (cart, sku)."""
    engine = packer.engine
    return [
        packer.packed(
            engine.add_line(cart_id_of(cart), sku, 1, properties_json=None, terms=terms, guard=NO_GUARD),
            as_script=as_script,
        )
        for cart, sku in who
    ]


def carts_of(
    packer: pipeline.Packer, carts: int, *, skus: int = SKUS, first: int = 0, terms: CartTerms = TERMS
) -> Iterator[bytes]:
    """A cart of three lines for each number, one call each. Made by replacing the cart in some thousand
    packed calls: asking the store for a million of them would take longer than the engine does."""
    patterns = min(carts, 5_000)
    blank = user_name(9_999_999).encode()
    packed = [
        packer.packed(
            packer.engine.put_lines(
                f"u.{blank.decode()}",
                [PutItem(sku=sku_name(number), quantity=1) for number in lines],
                mode="all",
                terms=terms,
                guard=NO_GUARD,
            )
        )
        for lines in lines_of_carts(patterns, skus=skus)
    ]
    for number in range(carts):
        yield packed[number % patterns].replace(blank, user_name(first + number).encode())


def fill(found: Servers, calls: Iterator[bytes], *, batch: int = 50_000) -> int:
    """Run calls once, some thousands at a time; the number that did not succeed."""
    failed = 0
    waiting: list[bytes] = []
    for call in calls:
        waiting.append(call)
        if len(waiting) == batch:
            failed += pipeline.run(found, waiting).failed
            waiting = []
    if waiting:
        failed += pipeline.run(found, waiting).failed
    return failed
