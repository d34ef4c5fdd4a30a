"""CartStore in one process, without HTTP: what our own code costs, over each kind of connection."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import uvloop

from benchmarks import pipeline
from benchmarks.connections import POOLED, WIRE, best_kind, caller_of, has_wire
from benchmarks.measure import Figure, Result, Sample, interleaved, pairs_of, rate, sample_of
from benchmarks.options import Options
from benchmarks.seeding import identity_of, open_shop, opened, packed_adds, sell_out
from benchmarks.servers import CPU_APP, Servers, pinned, servers
from benchmarks.workload import CARTS, SKUS, SOLD_OUT, adds, sku_name, user_name
from cartstore.errors import InsufficientStock
from cartstore.model import Owner
from cartstore.redis.store import RedisEngine
from cartstore.store import CartStore

CALLS = 20_000
CALLERS = (1, 32, 256)
STORE = Figure(
    key="store_engine",
    title="store: adds per second, 256 callers, one process / engine, same script, pipelined",
    baseline="the same calls packed beforehand, pipelined",
    unit="adds/s",
    at_least=0.60,
)
OVER = Figure(
    key="store_wire_redis_py",
    title="store over wire.py / over redis-py asyncio, 256 callers",
    baseline="the same store over redis-py",
    unit="adds/s",
    at_least=2.2,
)
OVER_32 = Figure(
    key="store_wire_redis_py_32",
    title="store over wire.py / over redis-py asyncio, 32 callers",
    baseline="the same store over redis-py",
    unit="adds/s",
)
OVER_1 = Figure(
    key="store_wire_redis_py_1",
    title="store over wire.py / over redis-py asyncio, 1 caller",
    baseline="the same store over redis-py",
    unit="adds/s",
)
REFUSED = Figure(
    key="store_refused_adds",
    title='refusals ("sold out") / adds, per second: store, 256 callers',
    baseline="adds by the same callers",
    unit="calls/s",
    at_least=1.0,
)
FIGURES = (STORE, OVER, OVER_32, OVER_1, REFUSED)


def run(options: Options) -> Iterator[Result]:
    if not options.wants(*FIGURES):
        return
    with servers() as found, pinned(CPU_APP):
        open_shop(found, skus=SKUS + 1)
        packer = pipeline.Packer(identity_of(found))
        work = [(op.cart, sku_name(op.sku)) for op in adds(CALLS)]
        packed = packed_adds(packer, work)
        assert pipeline.run(found, packed).failed == 0
        sell_out(found, sku_name(SOLD_OUT))
        kinds = [POOLED, *([WIRE] if has_wire() else [])]
        sides = {
            (kind, callers): partial(_adds, found, kind, callers, work, options.seconds)
            for kind in kinds
            for callers in CALLERS
        }
        named = {f"{kind} {callers}": side for (kind, callers), side in sides.items()}
        best = best_kind()
        named["engine"] = partial(pipeline.run, found, packed, seconds=options.seconds)
        named["refused"] = partial(_refusals, found, best, 256, work, options.seconds)
        samples = interleaved(named, options.repetitions)
    mine = samples[f"{best} 256"]
    share = max(sample.details["client_share"] for sample in samples["engine"])
    note = f"over {best}; the engine's client was busy for {share:.0%} of the time"
    yield Result(figure=STORE, pairs=pairs_of(mine, samples["engine"], rate), note=note)
    if has_wire():
        for figure, callers in ((OVER, 256), (OVER_32, 32), (OVER_1, 1)):
            pairs = pairs_of(samples[f"{WIRE} {callers}"], samples[f"{POOLED} {callers}"], rate)
            yield Result(figure=figure, pairs=pairs)
    yield Result(figure=REFUSED, pairs=pairs_of(samples["refused"], mine, rate), note=f"over {best}")


@asynccontextmanager
async def store_over(found: Servers, kind: str) -> AsyncIterator[CartStore]:
    """A store whose hot path uses this kind of connection."""
    async with opened(found, checkout_ack="engine") as store, caller_of(kind, found.engine.url()) as caller:
        store.engine = RedisEngine(caller, store.partition)
        yield store


def _adds(found: Servers, kind: str, callers: int, work: Sequence[tuple[int, str]], seconds: float) -> Sample:
    return uvloop.run(_measured(found, kind, callers, work, seconds, refused=False))


def _refusals(
    found: Servers, kind: str, callers: int, work: Sequence[tuple[int, str]], seconds: float
) -> Sample:
    gone = [(cart, sku_name(SOLD_OUT)) for cart, _ in work]
    return uvloop.run(_measured(found, kind, callers, gone, seconds, refused=True))


async def _measured(
    found: Servers,
    kind: str,
    callers: int,
    work: Sequence[tuple[int, str]],
    seconds: float,
    *,
    refused: bool,
) -> Sample:
    """Closed loop: each caller makes its next call when it has its answer."""
    owners = [Owner("user", user_name(number)) for number in range(CARTS)]
    todo = itertools.cycle([(owners[cart], sku) for cart, sku in work])
    latencies: list[float] = []
    clock = time.perf_counter
    async with store_over(found, kind) as store:

        async def call(until: float) -> None:
            while True:
                owner, sku = next(todo)
                began = clock()
                if refused:
                    try:
                        await store.add_line(owner, sku)
                    except InsufficientStock:
                        pass
                    else:
                        raise AssertionError("a sold-out SKU was sold")
                else:
                    await store.add_line(owner, sku)
                ended = clock()
                if ended > until:
                    return
                latencies.append(ended - began)

        await asyncio.gather(*(call(clock() + 0.2) for _ in range(callers)))
        latencies.clear()
        gc.collect()
        began = clock()
        await asyncio.gather(*(call(began + seconds) for _ in range(callers)))
    return sample_of(latencies, seconds, callers=callers, connection=kind)
