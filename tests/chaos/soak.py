"""`make soak`: the attacks for as long as one likes, and docs/reliability.md out of what they measured.

Runs a row of short periods, each on a shop that is at most a few periods old and each checked as a whole,
until the time is over. Ends with status 1 when anything was violated; the page then says what.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from itertools import count
from pathlib import Path

import uvloop
from acceptance.running import private_folder

from . import faults
from .campaign import Campaign, Report
from .faults import Fault, Strike, shuffled
from .product_faults import PRODUCT_FAULTS, QUICK, WorkerHung
from .product_stage import product_staged
from .reliability import page
from .small_disk import can_mount
from .stage import AckMode, staged
from .tree_kill import kill_and_start_again, tree_kills_section

PERIOD_SECONDS = 75.0
"""Of attack. What is left of a plan when it is over is left out."""

PERIODS_PER_STAGE = 4
"""Then the shop is a new one, because a history without end only makes every rebuild longer; at once after a
violation."""

PRODUCT_SHARE = 0.25
"""Of the time, for attacks on the whole product; one round of all its faults is carried out in any case."""

PRODUCT_SHOPPERS = 12

OFTEN = (faults.EngineKilled, faults.ScriptsFlushed, faults.DatabaseConnectionsKilled, faults.DatabaseFull)
"""Which are quick, and worth more than their share."""

SHORT = [fault for fault in faults.LOSSLESS if fault not in faults.LONG]


def plan_of(ack: AckMode, number: int, chance: random.Random) -> list[Strike]:
    """More than a period has time for: the order is random, so what is left out is, too."""
    chosen: list[type[Fault]] = [*5 * SHORT, *5 * OFTEN]
    if ack == "archived":
        chosen += [*10 * [faults.EngineTailLost, faults.EngineEmptied], faults.ReplicaPromoted]
    plan = shuffled(chosen, chance, paired=0.5)
    # First, so that they are never left out: one of these in every period, and a restored record at the end.
    rare = {1: faults.EngineStoppedLong, 3: faults.DatabaseDownLong, 6: faults.EngineStoppedLong}
    if (long := rare.get(number % 8)) is not None:
        plan.insert(0, (long,))
    if ack == "archived":
        plan.append((faults.DatabaseRestored,))
    return plan


async def soak(*, minutes: float, seed: int, shoppers: int, think_seconds: float) -> list[Report]:
    """The reports of all periods that the time has room for, at least one."""
    end = time.monotonic() + 60 * minutes
    chance = random.Random(seed)
    reports: list[Report] = []
    numbers = count(1)
    while not reports or time.monotonic() < end - 10:
        async with staged(seed=seed + len(reports)) as stage:
            campaign = Campaign(
                stage, seed=seed + len(reports), shoppers=shoppers, think_seconds=think_seconds
            )
            for turn in range(PERIODS_PER_STAGE):
                if reports and time.monotonic() > end - 10:
                    break
                ack: AckMode = "archived" if turn % 2 else "engine"
                await stage.start_api(ack)
                number = next(numbers)
                report = await campaign.run(
                    plan_of(ack, number, chance),
                    until_at=min(time.monotonic() + PERIOD_SECONDS, end - 10),
                )
                reports.append(report)
                _tell(number, report)
                if report.violations:
                    _keep(stage.logs(), f"period-{number}")
                    break
    return reports


async def soak_product(*, minutes: float, seed: int, think_seconds: float) -> list[Report]:
    """The reports of rounds on whole products, each on a new one, at least one. Without the right to mount a
    file system the faults of the disk are left out."""
    end = time.monotonic() + 60 * minutes
    chance = random.Random(seed)
    has_disk = can_mount()
    reports: list[Report] = []
    while not reports or time.monotonic() < end:
        # Once in a soak: it takes a minute, and nothing about it is left to chance.
        once = [] if reports else [WorkerHung]
        faults = [fault for fault in PRODUCT_FAULTS if has_disk or not fault.needs_disk]
        chosen = [*once, *(fault for fault in faults if fault is not WorkerHung), *2 * QUICK]
        chance.shuffle(chosen)
        number = len(reports) + 1
        async with product_staged(has_disk=has_disk) as stage:
            campaign = Campaign(
                stage, seed=seed + number, shoppers=PRODUCT_SHOPPERS, think_seconds=think_seconds
            )
            report = await campaign.run([(fault,) for fault in chosen])
            report.name = f"whole product, round {number}"
            reports.append(report)
            _tell(number, report)
            if report.violations:
                _keep(stage.logs(), f"product-{number}")
    return reports


def _tell(number: int, report: Report) -> None:
    print(
        f"period {number} ({report.name}): {report.seconds:.0f} s, {len(report.struck)} faults,"
        f" {report.calls.total()} calls, {report.orders} orders, {len(report.violations)} violations",
        flush=True,
    )
    for violation in report.violations[:10]:
        print(f"  {violation.kind}: {violation.what[:1_500]}", flush=True)


def _keep(logs: str, name: str) -> None:
    """The logs of a period that went wrong, for whoever looks into it."""
    folder = Path("build/soak")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.log").write_text(logs)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shoppers", type=int, default=28)
    parser.add_argument("--think-ms", type=float, default=10.0)
    parser.add_argument("--tree-kills", type=int, default=50)
    parser.add_argument("--page", type=Path, help="where to write what was measured")
    options = parser.parse_args()
    began = time.monotonic()
    reports = uvloop.run(
        soak(
            minutes=options.minutes * (1 - PRODUCT_SHARE),
            seed=options.seed,
            shoppers=options.shoppers,
            think_seconds=options.think_ms / 1_000,
        )
    )
    product_reports = uvloop.run(
        soak_product(
            minutes=options.minutes * PRODUCT_SHARE,
            seed=options.seed,
            think_seconds=options.think_ms / 1_000,
        )
    )
    minutes = (time.monotonic() - began) / 60
    text = page(
        reports,
        product_reports,
        minutes=minutes,
        minutes_given=options.minutes,
        seed=options.seed,
        shoppers=options.shoppers,
    )
    with private_folder() as folder:
        kills = uvloop.run(kill_and_start_again(folder, times=options.tree_kills, seed=options.seed))
    text += tree_kills_section(kills, options.tree_kills)
    if options.page is not None:
        options.page.write_text(text)
    print(text)
    return int(any(report.violations for report in (*reports, *product_reports)) or bool(kills.violations))


if __name__ == "__main__":
    sys.exit(main())
