"""What is around the attacks: a plan's order, the measuring of pauses, and the page that tells of it all."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import pytest

from . import faults
from .campaign import Report, Struck
from .checker import Violation
from .faults import shuffled
from .history import Call
from .meter import Meter
from .product_faults import WorkerHung
from .reliability import page


@pytest.mark.parametrize("seed", range(5))
def test_plan_has_every_fault_once_and_pairs_no_part_with_itself(seed: int) -> None:
    chosen = [*2 * [*faults.LOSSLESS], *faults.LOSING]

    plan = shuffled(chosen, random.Random(seed), paired=1.0)

    assert Counter(fault for strike in plan for fault in strike) == Counter(chosen)
    assert any(len(strike) == 2 for strike in plan)
    assert all(len({fault.part for fault in strike}) == len(strike) for strike in plan)
    assert plan[-1] == (faults.DatabaseRestored,)


def ok(verb: str, began: float, ended: float) -> Call:
    return Call(buyer="ann", verb=verb, key="k", began=began, ended=ended, verdict="ok")  # type: ignore[arg-type]


async def test_meter_tells_the_longest_pause_of_each_kind_of_writes() -> None:
    meter = Meter()
    now = time.time()
    meter.start(now)
    meter.on_call(ok("add", now - 1, now + 5))  # Began before: says nothing of what came after.
    meter.on_call(ok("add", now + 1, now + 2))
    meter.on_call(ok("read", now + 2, now + 3))
    meter.on_call(ok("set", now + 3, now + 6))
    meter.on_call(ok("settle", now + 6, now + 7))
    with pytest.raises(TimeoutError):
        await meter.until_calm(0)

    waiting = asyncio.create_task(meter.until_calm(5))
    await asyncio.sleep(0)
    meter.on_call(ok("add", now + 8, now + 8.5))
    meter.on_call(ok("cancel", now + 8, now + 9))

    carts, orders = await waiting
    assert (round(carts, 3), round(orders, 3)) == (4.0, 7.0)


def test_page_tells_what_was_measured() -> None:
    def struck(seconds: float | None) -> Struck:
        name = faults.EngineKilled.name
        return Struck(name=name, at=0, carts_seconds=seconds, orders_seconds=seconds, under_way=100)

    good = Report(name="good", struck=[struck(1.0), struck(None), struck(3.0), struck(2.0)], orders=2_000)
    good.calls.update(ok=1_500, failed=2)
    bad = Report(name="bad", struck=[struck(1.0)], violations=[Violation("lost", "an order")])

    hung = Struck(
        name=WorkerHung.name, at=0, carts_seconds=0.5, orders_seconds=0.6, under_way=7, well_seconds=62.0
    )
    product = Report(name="whole", struck=[hung], violations=[Violation("defect", "a 500")])

    text = page([good, bad], [product], minutes=33.0, minutes_given=30, seed=7, shoppers=5)

    assert "| engine: SIGKILL, restart from its log | 5 | 500 | 0 | 1 | 0 | 1.50, 3.00 | 1.50, 3.00 |" in text
    assert "| all | **5** | 500 | 0 | 1 | 0 | | |" in text
    assert "1,502 calls: 1,500 ok, 2 failed, 0 unknown" in text
    assert "**1 lost, 1 defect**" in text
    assert "| worker: SIGSTOP, nobody continues it | 1 | 7 | 1 | 62.00, 62.00 | 0.50" in text
    assert "| whole tree: SIGKILL, started again at once | left out |" in text
    assert "make soak MINUTES=30" in text
