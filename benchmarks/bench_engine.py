"""The engine by itself: our scripts, pipelined, with nothing of ours in the way. One hot SKU, refusals, a
million carts, a hundred thousand holders."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

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
from cartstore.redis.scripts import Script

CALLS = 20_000
MILLION_CARTS = 1_000_000
CROWD = 100_000
SOLD_OUT = "SKU-none"
TOUCHING = Script("touch", (Path(__file__).parent / "baselines" / "touch.lua").read_text(encoding="utf-8"))

RESERVE = Figure(
    key="engine_add_reserve",
    title="cart_add_line, pipelined / reserve.lua, pipelined",
    baseline="the shortest reserve script, same engine, same client",
    unit="calls/s",
)
FUNCTION = Figure(
    key="engine_function_script",
    title="cart_add_line, pipelined: as a function / as a script",
    baseline="the same calls by EVALSHA",
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
TOUCH = Figure(
    key="engine_million_touch",
    title="the same by a script that only reads and writes what an add does: 1,000,000 carts / 1,000 carts",
    baseline="the same script on an engine with 1,000 carts",
    unit="calls/s",
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
FIGURES = (RESERVE, FUNCTION, HOT, REFUSED, FSYNC, MILLION, TOUCH, HOLDERS)


def run(options: Options) -> Iterator[Result]:
    if options.wants(RESERVE, FUNCTION, HOT, REFUSED, FSYNC):
        with servers(database=False) as found, pinned(CPU_APP):
            yield from _core(found, options)
    if options.wants(MILLION, TOUCH):
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
    with_lines = [(2 * CARTS + op.cart, sku_name(op.sku)) for op in adds(CALLS)]
    lined = packed_adds(packer, with_lines)
    scripted = packed_adds(packer, with_lines, as_script=True)
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
            "scripted": partial(everything, scripted),
            "synced": synced,
        },
        options.repetitions,
    )
    assert all(sample.failed == 0 for each in samples.values() for sample in each)
    share = max(s.details["client_share"] for each in samples.values() for s in each)
    note = f"the client was busy for at most {share:.0%} of the time"
    yield Result(figure=RESERVE, pairs=pairs_of(samples["lined"], samples["short"], rate), note=note)
    yield Result(figure=FUNCTION, pairs=pairs_of(samples["lined"], samples["scripted"], rate), note=note)
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
            pipeline.load_scripts(found, TOUCHING)
            keys, identity = packer.engine.keys, identity_of(found)
            touches = [
                pipeline.pack(
                    TOUCHING,
                    (keys.gate, keys.cart(cart_id_of(cart)), keys.sku(sku), keys.activity),
                    (cart_id_of(cart), sku),
                    identity=identity,
                )
                for cart, sku in who
            ]
            sides[name] = partial(pipeline.run, found, packed_adds(packer, who), seconds=options.seconds)
            sides[f"{name} touch"] = partial(pipeline.run, found, touches, seconds=options.seconds)
        # Filling takes longer than all of them, and what depends on the host's memory varies most.
        samples = interleaved(sides, 3 * options.repetitions)
        count = large.client.dbsize()
    adds_us, touches_us = (_lost_us(samples, side) for side in ("", " touch"))
    note = (
        f"{count:,} keys in the large engine; an add loses {adds_us:.1f} us, a call that only touches the "
        f"same data {touches_us:.1f} us"
    )
    for figure, side in ((MILLION, ""), (TOUCH, " touch")):
        pairs = pairs_of(samples[f"large{side}"], samples[f"small{side}"], rate)
        yield Result(figure=figure, pairs=pairs, note=note)


def _lost_us(samples: Mapping[str, Sequence[Sample]], side: str) -> float:
    """Microseconds of the engine that a call takes more among many carts than among few."""
    large, small = (
        statistics.median(sample.rate for sample in samples[f"{name}{side}"]) for name in ("large", "small")
    )
    return 1e6 / large - 1e6 / small


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
