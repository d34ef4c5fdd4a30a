"""How long writes are refused when the engine has lost everything: the rebuild of a whole shop.

On the back of an envelope: 100,000 carts of three lines are 100,000 hashes and 300,000 holds. Writing a cart
costs the engine about 25 µs and a hold about 15, so 7 s if nobody waits for anybody; reading and packing a
cart costs this process about 15 µs, 1.5 s. What can go wrong is a round trip per cart or per hold: 400,000 of
them at 100 µs are 40 s.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import uvloop

from benchmarks import pipeline
from benchmarks.measure import Figure, Pair, Result
from benchmarks.options import Options
from benchmarks.seeding import TERMS, VARIANTS, cart_id_of, carts_of, fill, identity_of, opened
from benchmarks.servers import CPU_APP, Servers, pinned, servers
from benchmarks.workload import sku_name
from cartstore import Owner
from cartstore.archive import migrate
from cartstore.errors import StoreError
from cartstore.model import CheckoutRequest, Product, Variant, checkout_ids
from cartstore.store import CartStore

CARTS: Final = 100_000
SKUS: Final = 10_000
PAYMENTS: Final = 2_000
"""Checkouts that wait for their money; as many carts are empty but for that."""

UNITS: Final = 1_000_000
"""Of every SKU, so that every hold can be taken again and must be."""

TRY_SECONDS: Final = 0.02
PRODUCTS_AT_ONCE: Final = 100

REBUILD: Final = Figure(
    key="recovery_rebuild",
    title=f"an emptied engine: seconds until writes are accepted, {CARTS:,} carts and {SKUS:,} SKUs",
    baseline="the same carts put by their ordinary script, pipelined, no database",
    unit="s",
    at_most=30,
    absolute=True,
    belongs_to="full",
)
FIGURES = (REBUILD,)


class Contents(msgspec.Struct, frozen=True):
    """All that a shop's engine has to have again, counted."""

    carts: int
    lines: int
    units: int
    held: int
    """By the carts' own count; `waiting` is in pending orders."""
    waiting: int
    entries: int
    """In the SKUs' indexes of holds."""
    pending: int
    on_hand: dict[str, int]
    held_of: dict[str, int]

    def __post_init__(self) -> None:
        assert sum(self.held_of.values()) == self.held + self.waiting, "a counter is not the sum of its holds"


def run(options: Options) -> Iterator[Result]:
    if not options.wants(*FIGURES):
        return
    with servers() as found, pinned(CPU_APP):
        assert found.database is not None
        uvloop.run(migrate(found.database.url()))
        uvloop.run(_stock_up(found))
        baseline = _fill(found)
        before = uvloop.run(_archived(found))
        pairs = []
        for _ in range(min(options.repetitions, 3)):
            seconds, phases = uvloop.run(_lost_and_rebuilt(found, before))
            pairs.append(Pair(seconds, baseline, {"phases": phases, "load": os.getloadavg()}))
    last = ", ".join(f"{name} {took:.1f}" for name, took in pairs[-1].details["phases"].items())
    yield Result(
        figure=REBUILD,
        pairs=pairs,
        note=f"{before.lines:,} lines, {before.pending:,} pending payments; the last: {last}",
    )


async def _stock_up(found: Servers) -> None:
    async with opened(found, checkout_ack="engine") as store:
        step = VARIANTS * PRODUCTS_AT_ONCE
        for start in range(0, SKUS, step):
            products = [_product(first) for first in range(start, start + step, VARIANTS)]
            outcomes = await store.catalog.put_products(products)
            stored = [outcome[0] for outcome in outcomes if isinstance(outcome, tuple)]
            assert len(stored) == len(products)
            await store.engine.publish_skus(store.catalog.published(stored))


def _product(first: int) -> Product:
    return Product(
        id=f"P-{first:04d}",
        title=f"Product {first:04d}",
        options=("Size",),
        currency="USD",
        variants=tuple(
            Variant(sku=sku_name(number), options={"Size": f"{number}"}, price_minor=1_999, policy="deny")
            for number in range(first, first + VARIANTS)
        ),
    )


def _fill(found: Servers) -> float:
    """Stock, carts and checkouts by their own scripts; the seconds that the carts took."""
    pipeline.load_scripts(found)
    packer = pipeline.Packer(identity_of(found))
    engine = packer.engine
    adjusted = (
        packer.packed(
            engine.adjust_stock(
                sku_name(number), delta=UNITS, reason="b", reference=f"b{number}", fingerprint="b"
            )
        )
        for number in range(SKUS)
    )
    assert fill(found, adjusted) == 0
    began = time.perf_counter()
    assert fill(found, carts_of(packer, CARTS + PAYMENTS, skus=SKUS)) == 0
    seconds = time.perf_counter() - began
    assert fill(found, (_begun(packer, CARTS + number) for number in range(PAYMENTS))) == 0
    return seconds


def _begun(packer: pipeline.Packer, number: int) -> bytes:
    checkout_id, payment_id = checkout_ids(packer.engine.partition, cart_id_of(number), "b")
    request = CheckoutRequest(
        line_ids=None,
        gateway="simulated",
        payment_method="card",
        expected_total_minor=None,
        details_json="{}",
    )
    return packer.packed(
        packer.engine.begin_checkout(
            cart_id_of(number),
            checkout_id,
            payment_id,
            request,
            fingerprint="0" * 32,
            window_ms=900_000,
            terms=TERMS,
            if_match=None,
        )
    )


async def _archived(found: Servers) -> Contents:
    """Everything is in the record; what the engine has."""
    async with opened(found, checkout_ack="engine") as store:
        await store.drain_outbox()
        while await store.snapshot_carts():
            pass
        return await _contents(found, store)


async def _lost_and_rebuilt(found: Servers, before: Contents) -> tuple[float, dict[str, float]]:
    """Seconds from the first refused write to the first accepted one, and of each part of the rebuild."""
    phases: dict[str, float] = {}
    async with opened(found, checkout_ack="engine") as store:
        found.client.flushall()
        found.client.script_flush()
        buyer = asyncio.create_task(_until_accepted(store))
        mark = time.perf_counter()

        def note(what: str, _done: int, _total: int | None) -> None:
            nonlocal mark
            now = time.perf_counter()
            phases[what] = phases.get(what, 0.0) + now - mark
            mark = now

        await store.recover(note)
        seconds = await buyer
        # The buyer's own line is none of those that were lost.
        await store.clear_cart(_BUYER)
        after = await _contents(found, store)
    for name in Contents.__struct_fields__:
        lost, got = getattr(before, name), getattr(after, name)
        if name == "carts":
            got -= 1
        assert lost == got, f"{name}: {_told(lost)} before, {_told(got)} after"
    return seconds, phases


_BUYER: Final = Owner("user", "the one who waits")


async def _until_accepted(store: CartStore) -> float:
    began = time.perf_counter()
    refused = 0
    while True:
        try:
            await store.add_line(_BUYER, sku_name(0))
        except StoreError:
            refused += 1
            await asyncio.sleep(TRY_SECONDS)
            continue
        assert refused > 0, "nothing was fenced"
        return time.perf_counter() - began


async def _contents(found: Servers, store: CartStore) -> Contents:
    names = [sku_name(number) for number in range(SKUS)]
    levels = [level for level in await store.engine.read_stock(names) if level is not None]
    assert len(levels) == SKUS
    keys = store.engine.keys  # type: ignore[attr-defined]
    totals = found.client.register_script("return {cmsgpack.unpack(redis.call('HGET', KEYS[1], 'a'))}")
    running = [totals([key]) for key in found.client.scan_iter(f"{keys.cart('')}*", count=5_000)]
    return Contents(
        carts=len(running),
        lines=sum(its[1] for its in running),
        units=sum(its[2] for its in running),
        held=sum(its[4] for its in running),
        waiting=sum(its[5] for its in running),
        entries=sum(_each(found, [keys.holds(name) for name in names], "zcard")),
        pending=found.client.zcard(keys.due),  # type: ignore[arg-type]
        on_hand={level.sku: level.on_hand for level in levels},
        held_of={level.sku: level.held for level in levels},
    )


def _each(found: Servers, keys: Sequence[str], command: str, *args: str) -> list[Any]:
    answers: list[Any] = []
    for start in range(0, len(keys), 10_000):
        with found.client.pipeline(transaction=False) as many:
            for key in keys[start : start + 10_000]:
                getattr(many, command)(key, *args)
            answers += many.execute()
    return answers


def _told(value: Any) -> Any:
    return f"{len(value)} with a sum of {sum(value.values())}" if isinstance(value, dict) else value
