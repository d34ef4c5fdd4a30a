"""Goal: whatever happens to engine, database, queue, processes and network, while buyers go on shopping over
HTTP: no unit is sold twice, no acknowledged order is lost or made twice, no "sold out" is false, and writes
are accepted again without a hand on anything.

Method: a shop of real parts; buyers who repeat every call until they know its outcome and record each; faults
one after the other and two at once, from a fixed seed. At the end everything comes to rest, and the checker
proves the promises from the history and from what is in both stores. In the first run checkouts are
acknowledged on the engine's word and no fault takes its memory; in the second as archived, and faults do.
`make soak` is the same for long.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from . import faults
from .campaign import Campaign
from .faults import Strike, shuffled
from .stage import AckMode, staged

FAULTS_MIN = 100

SHORT = [fault for fault in faults.LOSSLESS if fault not in faults.LONG]

PLANS: dict[AckMode, list[Strike]] = {
    "engine": shuffled(3 * SHORT, random.Random(4), paired=0.3),
    "archived": shuffled(
        [
            *2 * SHORT,
            *4 * [faults.EngineTailLost, faults.EngineEmptied],
            *2 * [faults.ReplicaPromoted],
            faults.DatabaseRestored,
        ],
        random.Random(5),
        paired=0.3,
    ),
}


@pytest.mark.parametrize("ack", PLANS)
async def test_promises_are_kept_when_every_part_is_attacked(ack: AckMode) -> None:
    plan = PLANS[ack]
    async with staged(seed=6) as stage:
        await stage.start_api(ack)

        report = await Campaign(stage, seed=6, shoppers=12, think_seconds=0.01).run(plan)

        assert not report.violations, (report.violations[:5], stage.logs()[-5_000:])
    assert Counter(its.name for its in report.struck) == Counter(
        fault.name for strike in plan for fault in strike
    )
    # The attacks met a shop at work, in which units ran out and calls were cut off.
    assert report.orders > 100
    assert report.refused_as_sold_out > 100
    assert min(report.calls[verdict] for verdict in ("ok", "failed", "unknown")) > 10
    assert {"add", "set", "remove", "read", "stock", "checkout", "settle", "callback", "cancel"} <= set(
        report.verbs
    )


def test_there_are_enough_faults_and_each_kind_strikes() -> None:
    planned = Counter(fault for plan in PLANS.values() for strike in plan for fault in strike)

    assert planned.total() >= FAULTS_MIN
    assert planned.keys() == {*faults.LOSSLESS, *faults.LOSING} - {*faults.LONG}
