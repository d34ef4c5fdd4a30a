"""The engine by itself: our scripts, pipelined, with nothing of ours in the way. One hot SKU, refusals, a
million carts, a hundred thousand holders."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

from benchmarks import pipeline
from benchmarks.measure import Figure, Result, Sample, interleaved, pairs_of, rate
from benchmarks.options import Options
from benchmarks.seeding import (
    cart_id_of,
    carts_of,
    fill,
    identity_of,
    open_engine,
    packed_adds,
)
from benchmarks.servers import CPU_APP, Servers, pinned, servers
from benchmarks.workload import CARTS, SEED, SKUS, adds, lines_of_carts, sku_name

CALLS = 20_000
MILLION_CARTS = 1_000_000
CROWD = 100_000
SOLD_OUT = "SKU-none"

RESERVE = Figure(
    key="engine_add_reserve",
    title="cart_add_line, pipelined / reserve.lua, pipelined",
    baseline="the shortest reserve script, same engine, same client",
    unit="calls/s",
)
HOT = Figure(
    key="engine_hot_many",
    title="one hot SKU / many SKUs, adds per second",
    baseline="the same adds spread over 1,000 SKUs",
    unit="adds/s",
    at_least=0.85,
)
REFUSED = Figure(
    key="engine_refused_adds",
    title='refusals ("sold out") / adds, per second: engine',
    baseline="adds to the same carts",
    unit="calls/s",
    at_least=1.0,
)
FSYNC = Figure(
    key="engine_fsync",
    title="adds per second, appendfsync always / everysec, pipelined",
    baseline="the same calls with everysec",
    unit="adds/s",
)
MILLION = Figure(
    key="engine_million_carts",
    title="1,000,000 carts / 1,000 carts, adds per second",
    baseline="the same adds on an engine with 1,000 carts",
    unit="adds/s",
    at_least=0.90,
    belongs_to="full",
)
HOLDERS = Figure(
    key="engine_holders",
    title="100,000 holders of one SKU / 10 holders, adds per second",
    baseline="adds to a SKU that 10 carts hold, same number of lines",
    unit="adds/s",
    at_least=0.90,
    belongs_to="full",
)
FIGURES = (RESERVE, HOT, REFUSED, FSYNC, MILLION, HOLDERS)


def run(options: Options) -> Iterator[Result]:
    if options.wants(RESERVE, HOT, REFUSED, FSYNC):
        with servers(database=False) as found, pinned(CPU_APP):
            yield from _core(found, options)
    if options.wants(MILLION):
        yield from _million(options)
    if options.wants(HOLDERS):
        yield from _holders(options)


def _core(found: Servers, options: Options) -> Iterator[Result]:
    from benchmarks.baselines.bare import RESERVE as SHORT
    from benchmarks.baselines.bare import STOCK

    open_engine(found, sold_out=[SOLD_OUT])
    pipeline.load_scripts(found, SHORT)
    identity = identity_of(found)
    packer = pipeline.Packer(identity)
    # One line per cart on both sides, so that carts cost the same to load and save. The carts are others:
    # whose cart has a line of the hot SKU has no other.
    chance = random.Random(SEED)
    whose = [chance.randrange(CARTS) for _ in range(CALLS)]
    sku_of_cart = [chance.randrange(1, SKUS) for _ in range(CARTS)]
    many = packed_adds(packer, [(cart, sku_name(sku_of_cart[cart])) for cart in whose])
    hot = packed_adds(packer, [(CARTS + cart, sku_name(0)) for cart in whose])
    refused = packed_adds(packer, [(cart, SOLD_OUT) for cart in whose])
    lined = packed_adds(packer, [(2 * CARTS + op.cart, sku_name(op.sku)) for op in adds(CALLS)])
    prefix = packer.engine.keys.prefix
    short = []
    for op in adds(CALLS):
        sku = sku_name(op.sku)
        found.client.hset(f"{prefix}bare:stock:{sku}", "on_hand", STOCK)
        keys = (f"{prefix}bare:stock:{sku}", f"{prefix}bare:cart:{cart_id_of(op.cart)}")
        short.append(pipeline.pack(SHORT, keys, (sku, 1), identity=identity))
    for calls in (many, hot, lined, short):
        assert pipeline.run(found, calls).failed == 0, "an add that is there to succeed was refused"

    def everything(calls: list[bytes]) -> Sample:
        return pipeline.run(found, calls, seconds=options.seconds)

    def refusals() -> Sample:
        return pipeline.run(found, refused, seconds=options.seconds, expected=b"INSUFFICIENT_STOCK")

    def synced() -> Sample:
        found.fsync("always")
        try:
            return everything(lined)
        finally:
            found.fsync("everysec")

    samples = interleaved(
        {
            "many": partial(everything, many),
            "hot": partial(everything, hot),
            "refused": refusals,
            "short": partial(everything, short),
            "lined": partial(everything, lined),
            "synced": synced,
        },
        options.repetitions,
    )
    assert all(sample.failed == 0 for each in samples.values() for sample in each)
    share = max(s.details["client_share"] for each in samples.values() for s in each)
    note = f"the client was busy for at most {share:.0%} of the time"
    yield Result(figure=RESERVE, pairs=pairs_of(samples["lined"], samples["short"], rate), note=note)
    yield Result(figure=HOT, pairs=pairs_of(samples["hot"], samples["many"], rate), note=note)
    yield Result(figure=REFUSED, pairs=pairs_of(samples["refused"], samples["many"], rate), note=note)
    yield Result(figure=FSYNC, pairs=pairs_of(samples["synced"], samples["lined"], rate), note=note)


def _million(options: Options) -> Iterator[Result]:
    """Two engines side by side: filling and emptying one between repetitions would take all day."""
    with servers(database=False) as large, servers(database=False) as small, pinned(CPU_APP):
        sides = {}
        for name, found, carts in (("large", large, MILLION_CARTS), ("small", small, 1_000)):
            open_engine(found)
            packer = pipeline.Packer(identity_of(found))
            assert fill(found, carts_of(packer, carts)) == 0
            chance = random.Random(SEED)
            # Spread over all carts: those that a small cache of the CPU would hold are no better than others.
            lines = lines_of_carts(min(carts, 5_000))
            who = []
            for _ in range(10 * CALLS):
                cart = chance.randrange(carts)
                who.append((cart, sku_name(chance.choice(lines[cart % len(lines)]))))
            calls = packed_adds(packer, who)
            sides[name] = partial(pipeline.run, found, calls, seconds=options.seconds)
        samples = interleaved(sides, options.repetitions)
        keys = large.client.dbsize()
    yield Result(
        figure=MILLION,
        pairs=pairs_of(samples["large"], samples["small"], rate),
        note=f"{keys:,} keys in the large engine",
    )


def _holders(options: Options) -> Iterator[Result]:
    with servers(database=False) as found, pinned(CPU_APP):
        open_engine(found)
        packer = pipeline.Packer(identity_of(found))
        crowded, quiet = sku_name(0), [sku_name(number) for number in range(1, 1_000)]
        holders = packed_adds(packer, [(cart, crowded) for cart in range(CROWD)])
        assert fill(found, iter(holders)) == 0
        # The quiet side: as many buyers as the crowded side asks for, ten to a SKU.
        few = [(2 * CROWD + cart, quiet[cart // 10]) for cart in range(9_990)]
        chance = random.Random(SEED)
        crowd = [(chance.randrange(CROWD), crowded) for _ in range(CALLS)]
        some = [few[chance.randrange(len(few))] for _ in range(CALLS)]
        sides = {
            "crowd": partial(pipeline.run, found, packed_adds(packer, crowd), seconds=options.seconds),
            "few": partial(pipeline.run, found, packed_adds(packer, some), seconds=options.seconds),
        }
        assert fill(found, iter(packed_adds(packer, few))) == 0
        samples = interleaved(sides, options.repetitions)
        count = found.client.zcard(packer.engine.keys.holds(crowded))
    yield Result(
        figure=HOLDERS,
        pairs=pairs_of(samples["crowd"], samples["few"], rate),
        note=f"{count:,} holders",
    )
