"""What a cart costs in the engine's memory, with everything that belongs to it: holds, indexes, keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from benchmarks import pipeline
from benchmarks.measure import Figure, Pair, Result
from benchmarks.options import Options
from benchmarks.seeding import carts_of, fill, identity_of, open_engine
from benchmarks.servers import CPU_APP, Servers, pinned, servers
from benchmarks.workload import LINES, SKUS, lines_of_carts, sku_name, user_name

CARTS = 200_000

BYTES = Figure(
    key="memory_cart",
    title=f"engine bytes per {LINES}-line cart over {SKUS:,} SKUs, indexes and holds included",
    baseline="the same cart as one JSON string, no holds, no index",
    unit="bytes",
    at_most=800,
    absolute=True,
)
FIGURES = (BYTES,)


def run(options: Options) -> Iterator[Result]:
    if not options.wants(*FIGURES):
        return
    with servers(database=False) as found, pinned(CPU_APP):
        open_engine(found)
        plain = _json_carts(found)
        before = _used(found)
        packer = pipeline.Packer(identity_of(found))
        assert fill(found, carts_of(packer, CARTS)) == 0
        ours = (_used(found) - before) / CARTS
        note = ", ".join(f"{kind} {size:.0f}" for kind, size in _parts(found, packer).items())
    yield Result(
        figure=BYTES,
        pairs=[Pair(ours, plain)],
        note=f"{CARTS:,} carts; of one of them, by MEMORY USAGE: {note}",
    )


def _used(found: Servers) -> float:
    """The engine's own count, without what its connections and its log have in hand."""
    memory: dict[str, Any] = found.client.info("memory")
    passing = ("mem_clients_normal", "mem_aof_buffer")
    return float(memory["used_memory"]) - sum(float(memory.get(name, 0)) for name in passing)


def _json_carts(found: Servers) -> float:
    before = _used(found)
    lines = lines_of_carts(1_000)
    with found.client.pipeline(transaction=False) as many:
        for number in range(CARTS // 10):
            items = [
                {"sku": sku_name(sku), "quantity": 1, "price": "19.99", "added_at": 1_790_000_000_000}
                for sku in lines[number % len(lines)]
            ]
            cart = {"id": user_name(number), "currency": "USD", "version": 3, "items": items}
            many.set(f"json:cart:{user_name(number)}", msgspec.json.encode(cart))
        many.execute()
    used = (_used(found) - before) / (CARTS // 10)
    with found.client.pipeline(transaction=False) as many:
        for number in range(CARTS // 10):
            many.delete(f"json:cart:{user_name(number)}")
        many.execute()
    return used


def _parts(found: Servers, packer: pipeline.Packer) -> dict[str, float]:
    """Where the bytes are: the cart's hash, its share of the holds and of the index of activity."""
    client, keys = found.client, packer.engine.keys
    usage = [
        int(client.memory_usage(keys.cart(f"u.{user_name(number)}")) or 0) for number in range(0, CARTS, 997)
    ]
    holds = sum(int(client.memory_usage(keys.holds(sku_name(n)), samples=50) or 0) for n in range(SKUS))
    activity = int(client.memory_usage(keys.activity, samples=1_000) or 0)
    encoding = client.object("encoding", keys.cart(f"u.{user_name(0)}"))
    return {
        f"cart hash ({encoding})": sum(usage) / len(usage),
        "holds": holds / CARTS,
        "activity": activity / CARTS,
    }
