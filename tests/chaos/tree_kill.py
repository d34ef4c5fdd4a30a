"""Goal: `cartstore up` starts again at once after an unclean death, and what it acknowledged is there.

Method: `up` with everything below it is killed (SIGKILL) at random moments, under load or in the middle of a
start, and started again at once, on the same port. Buyers repeat a call until they know its outcome and
note every order that was acknowledged. At the end the orders, engine, PostgreSQL and its ledger must agree.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from acceptance.calling import Caller, Callers, calling, new_key
from acceptance.running import PATIENCE_SECONDS, Shop

SKU = "TREE-1"
UNITS = 100_000
BUYERS = 2

LOAD_SECONDS_MAX = 1.0
"""A shop that is ready is killed within this time."""

START_SECONDS_MAX = 3.0
"""One that starts is killed within this time."""


class TreeKills(msgspec.Struct):
    """What came of it."""

    violations: list[str] = []
    seconds_until_ready: list[float] = []
    """From each kill to the readiness of the shop that was started after it, kills in between included."""
    orders: int = 0
    """Acknowledged, and found at the end."""


async def kill_and_start_again(folder: Path, *, times: int, seed: int) -> TreeKills:
    """Kill a shop in `folder` so many times. Raises nothing for what the shop does wrong."""
    chance = random.Random(seed)
    found = TreeKills()
    shop = Shop(folder / "shop", processes=1)
    shop.start()
    orders: dict[str, Caller] = {}
    try:
        async with calling(shop.url, timeout_seconds=5) as callers:
            await callers.bearer("admin", shop.token("admin", "admin")).put_product("tree", SKU, stock=UNITS)
            async with _buying(callers, shop, orders):
                killed_at = 0.0
                for number in range(times):
                    # Every other kill meets a shop that is starting, the first one under load.
                    is_starting = number % 2 == 1
                    await asyncio.sleep(
                        chance.uniform(0, START_SECONDS_MAX if is_starting else LOAD_SECONDS_MAX)
                    )
                    if not killed_at:
                        killed_at = time.monotonic()
                    shop.kill_tree()
                    shop.spawn()
                    if number % 2 == 0 and number + 1 < times:
                        continue
                    await asyncio.to_thread(shop.until_ready)
                    found.seconds_until_ready.append(round(time.monotonic() - killed_at, 2))
                    killed_at = 0.0
                await _progress(orders)
            await _check_orders(orders, found)
        await shop.books().assert_agree({SKU: UNITS})
    except AssertionError as error:
        found.violations.append(f"{error}\n{shop.text()[-2_000:]}")
    finally:
        if shop.is_running():
            shop.stop()
    found.orders = len(orders)
    return found


@asynccontextmanager
async def _buying(callers: Callers, shop: Shop, orders: dict[str, Caller]) -> AsyncIterator[None]:
    buyers = [callers.bearer(f"buyer{n}", shop.token(f"buyer{n}")) for n in range(BUYERS)]
    tasks = [asyncio.create_task(_buy(buyer, orders)) for buyer in buyers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _buy(buyer: Caller, orders: dict[str, Caller]) -> None:
    while True:
        await buyer.add(SKU, key=new_key())
        call = await buyer.check_out(key=new_key())
        if call.status == 201:
            orders.update({order["order_id"]: buyer for order in call.body["orders"]})
            await buyer.pay(call.body["orders"][0]["payment_id"])
        else:
            await asyncio.sleep(0.05)


async def _progress(orders: dict[str, Caller]) -> None:
    """Wait until somebody has bought after the last start."""
    before = len(orders)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(orders) == before:  # noqa: ASYNC110 (set by the buyers' tasks)
            await asyncio.sleep(0.02)


async def _check_orders(orders: dict[str, Caller], found: TreeKills) -> None:
    for order_id, buyer in orders.items():
        call = await buyer.call("GET", f"/v1/orders/{order_id}")
        if call.status != 200:
            found.violations.append(f"order {order_id} was acknowledged, then {call!r}")


def tree_kills_section(found: TreeKills, times: int) -> str:
    """What the page of `make soak` says of it."""
    seconds = sorted(found.seconds_until_ready) or [0.0]
    text = (
        "\n## The whole tree killed\n\n"
        f"`cartstore up` and everything below it was killed {times} times at random moments, every other\n"
        "time in the middle of a start, and started again at once. Ready again after\n"
        f"{seconds[len(seconds) // 2]:.1f} s in the median, {seconds[-1]:.1f} s at most;\n"
        f"{found.orders} orders were acknowledged; violations: {len(found.violations)}.\n"
    )
    return text + "".join(f"\n    {violation[:1_500]}\n" for violation in found.violations[:10])
