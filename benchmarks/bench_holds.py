"""A hundred thousand holds of one SKU fall due in the same instant: how long anything takes, and whether
buyers of another SKU notice.

Each storm has three parties besides the engine. *Shoppers*, a process of its own, add another SKU at a fixed
rate, in open loop; their latencies are the figure. *The sweeper* releases due holds as a worker does, and
*buyers* of the very SKU want it in that instant: both in a second process, which is nice to the shoppers, so
that what is seen is the engine's doing and not that two Pythons share a CPU.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import Iterator
from typing import Any

import uvloop

from benchmarks import pipeline
from benchmarks.connections import best_kind, caller_of
from benchmarks.measure import Figure, Pair, Result, Sample, p99, pairs_of, sample_of
from benchmarks.options import Options
from benchmarks.seeding import TERMS, cart_id_of, fill, identity_of, open_engine, packed_adds
from benchmarks.servers import CPU_APP, NAMESPACE, Servers, pin, servers
from benchmarks.workload import CARTS, sku_name
from cartstore.errors import StoreError
from cartstore.model import NO_GUARD, CartTerms, Partition
from cartstore.redis.store import RedisEngine

HOLDERS = 100_000
STOCK = HOLDERS
"""Nothing is free until the holds are released: buyers of the SKU depend on it."""

BUYERS = 16
SHOPPERS_RATE = 500.0
"""Adds of the other SKUs per second."""

CALM_SECONDS = 1.5
STORM_SECONDS = 1.0
MARGIN_MS = 4_000
"""From the end of seeding to the calm second's start, at least."""

SLOWLOG_US = 300
SWEEP_LIMIT = 100_000
NICE = 10

LONGEST = Figure(
    key="holds_longest_script",
    title="longest single script while 100,000 holds fall due at once",
    baseline="the longest of the calm time before it",
    unit="ms",
    at_most=5.0,
    absolute=True,
)
OTHERS = Figure(
    key="holds_p99_others",
    title="p99 of adds of another SKU in that second / calm p99",
    baseline="the same adds before the holds fall due",
    unit="ms",
    at_most=2.0,
)
FIGURES = (LONGEST, OTHERS)


def run(options: Options) -> Iterator[Result]:
    if not options.wants(*FIGURES):
        return
    calm, storm, longest, released = [], [], [], []
    with servers(database=False) as found:
        for _ in range(options.repetitions):
            its_calm, its_storm, its_longest, its_seconds = _storm(found)
            calm.append(its_calm)
            storm.append(its_storm)
            longest.append(its_longest)
            released.append(its_seconds)
    note = f"all released after {max(released):.1f} s at most; {SHOPPERS_RATE:g} adds a second of other SKUs"
    yield Result(figure=LONGEST, pairs=longest, note=note)
    yield Result(figure=OTHERS, pairs=pairs_of(storm, calm, p99), note=note)


def _storm(found: Servers) -> tuple[Sample, Sample, Pair, float]:
    open_engine(found)
    crowded = sku_name(0)
    keys = pipeline.Packer("").engine.keys
    found.client.hset(keys.sku(crowded), "on_hand", STOCK)
    # Every hold is taken at the same time by the scripts' clock, hence all end in the same millisecond.
    now_ms = _engine_ms(found)
    ttl_ms = _seeding_ms(found) + MARGIN_MS
    terms = CartTerms(**{**{f: getattr(TERMS, f) for f in TERMS.__struct_fields__}, "hold_ttl_ms": ttl_ms})
    packer = pipeline.Packer(identity_of(found), now_ms=now_ms)
    pattern = packed_adds(packer, [(9_999_999, crowded)], terms)[0]
    blank = cart_id_of(9_999_999).encode()
    made = (pattern.replace(blank, cart_id_of(CARTS + number).encode()) for number in range(HOLDERS))
    assert fill(found, made) == 0
    due_ms = now_ms + ttl_ms
    start_ms = due_ms - CALM_SECONDS * 1_000
    if _engine_ms(found) > start_ms:
        raise RuntimeError("seeding took longer than it was given")

    due = time.monotonic() + (due_ms - _engine_ms(found)) / 1_000
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    url = found.engine.url()
    shoppers = context.Process(target=_shoppers, args=(url, due, results))
    crowd = context.Process(target=_crowd, args=(url, due, crowded, results))
    for process in (shoppers, crowd):
        process.start()
        pin(process.pid or 0, CPU_APP)
    found.client.config_set("slowlog-max-len", 100_000)
    found.client.config_set("slowlog-log-slower-than", SLOWLOG_US)
    time.sleep(max(0.0, due - CALM_SECONDS - time.monotonic()))
    found.client.slowlog_reset()
    time.sleep(max(0.0, due - 0.05 - time.monotonic()))
    calm_longest = _longest_ms(found)
    found.client.slowlog_reset()
    told = dict(results.get(timeout=120) for _ in range(2))
    storm_longest = _longest_ms(found)
    for process in (shoppers, crowd):
        process.join(30)
    left = found.client.zcard(keys.holds(crowded))
    assert left <= BUYERS, f"{left} holds were not released"
    latencies = told["shoppers"]
    calm = sample_of([took for at, took in latencies if at < due - 0.05], CALM_SECONDS)
    storm = sample_of([took for at, took in latencies if due <= at < due + STORM_SECONDS], STORM_SECONDS)
    pair = Pair(storm_longest, calm_longest, {"slower_than_us": SLOWLOG_US, "crowd": told["crowd"]})
    return calm, storm, pair, told["crowd"]["released_after"]


def _engine_ms(found: Servers) -> int:
    seconds, micros = found.client.time()
    return int(seconds) * 1_000 + int(micros) // 1_000


def _seeding_ms(found: Servers) -> int:
    """How long so many adds will take here, found out by a few; processes start in the rest."""
    packer = pipeline.Packer(identity_of(found))
    calls = packed_adds(packer, [(number, sku_name(1)) for number in range(5_000)])
    began = time.perf_counter()
    assert fill(found, iter(calls)) == 0
    return int((time.perf_counter() - began) * 1_000 * HOLDERS / 5_000 * 2) + int(CALM_SECONDS * 1_000)


def _longest_ms(found: Servers) -> float:
    """By the engine's own clock; what was faster than the log's threshold counts as that."""
    entries = found.client.slowlog_get(100_000)
    scripts = [
        entry["duration"] for entry in entries if bytes(entry["command"]).upper().startswith(b"EVALSHA")
    ]
    return max([*scripts, SLOWLOG_US]) / 1_000


def _shoppers(url: str, due: float, results: Any) -> None:
    uvloop.run(_shop(url, due, results))


async def _shop(url: str, due: float, results: Any) -> None:
    """Adds of the other SKUs by a timetable, whether or not the one before was answered."""
    taken: list[tuple[float, float]] = []
    async with caller_of(best_kind(), url) as caller:
        engine = RedisEngine(caller, Partition(NAMESPACE))

        async def add(number: int, planned: float) -> None:
            await engine.add_line(
                cart_id_of(number % CARTS),
                sku_name(2 + number % 900),
                1,
                properties_json=None,
                terms=TERMS,
                guard=NO_GUARD,
            )
            taken.append((planned, time.monotonic() - planned))

        await asyncio.gather(*(add(number, time.monotonic()) for number in range(64)))
        taken.clear()
        gc.collect()
        gc.freeze()
        start = max(time.monotonic(), due - CALM_SECONDS)
        tasks = []
        for number in range(int((CALM_SECONDS + STORM_SECONDS + 0.2) * SHOPPERS_RATE)):
            planned = start + number / SHOPPERS_RATE
            await asyncio.sleep(max(0.0, planned - time.monotonic()))
            # A loop that wakes late is this process's fault, not the engine's.
            tasks.append(asyncio.create_task(add(number, time.monotonic())))
        await asyncio.gather(*tasks)
    results.put(("shoppers", taken))


def _crowd(url: str, due: float, sku: str, results: Any) -> None:
    os.nice(NICE)
    uvloop.run(_storming(url, due, sku, results))


async def _storming(url: str, due: float, sku: str, results: Any) -> None:
    async with caller_of(best_kind(), url) as caller:
        engine = RedisEngine(caller, Partition(NAMESPACE))
        await engine.read_stock([sku_name(1)])
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        refused = 0

        async def buy(number: int) -> None:
            nonlocal refused
            try:
                await engine.add_line(
                    cart_id_of(8_000_000 + number),
                    sku,
                    1,
                    properties_json=None,
                    terms=TERMS,
                    guard=NO_GUARD,
                )
            except StoreError:
                refused += 1

        buying = [asyncio.create_task(buy(number)) for number in range(BUYERS)]
        released = 0
        while step := await engine.release_due_holds(SWEEP_LIMIT):
            released += step
        await asyncio.gather(*buying)
        # Buyers may have released the last ones; what counts is that nothing is due any more.
        while step := await engine.release_due_holds(SWEEP_LIMIT):
            released += step
        took = time.monotonic() - due
    results.put(("crowd", {"released_after": took, "by_sweeper": released, "unavailable": refused}))
