"""One period of attack: buyers shop, faults strike, everything comes to rest, and the history is checked.

Owns the order of these steps and what is reported of them. Each period has SKUs and people of its own, so
that a long run is a row of short ones, each checked as a whole.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from acceptance.calling import calling
from acceptance.running import token

from .books import Books, is_archived, read_books
from .bounds import Absence, Upset, upsets_of
from .checker import NO_DAMAGE, Violation, check, forgotten
from .faults import Fault, Strike
from .meter import Meter
from .probe import buy_once
from .product_faults import ProductFault
from .product_stage import ProductStage
from .shoppers import Market, Shopper, look_after, pay_late, restock
from .stage import PATIENCE_SECONDS, TERMS, NeverCalm, Stage, until

SCARCE_UNITS = 14
"""Fewer than the buyers want at once."""

PLENTY_UNITS = 1_000_000


class Struck(msgspec.Struct, frozen=True, kw_only=True):
    """One fault that struck, and what it did to writes."""

    name: str
    at: float
    carts_seconds: float | None
    """Longest time without an accepted write of a cart; None when another fault struck with it."""
    orders_seconds: float | None
    """The same for checkouts, payments and cancellations."""
    under_way: int
    """Calls that were under way when it struck or began before writes were accepted again."""
    well_seconds: float | None = None
    """Until readiness was `ok` and a new customer had added, checked out and paid. Measured on the whole
    product only."""


class Report(msgspec.Struct, kw_only=True):
    """What one period showed."""

    name: str
    struck: list[Struck] = []
    calls: Counter[str] = msgspec.field(default_factory=Counter)
    """By verdict."""
    verbs: Counter[str] = msgspec.field(default_factory=Counter)
    """Calls that are done, by verb."""
    refused_as_sold_out: int = 0
    orders: int = 0
    """Acknowledged checkouts."""
    forgotten: int = 0
    """Of these, those between a backup and its restoration."""
    violations: list[Violation] = []
    seconds: float = 0.0


class Campaign:
    """Attacks on one stage, period after period."""

    def __init__(
        self, stage: Stage | ProductStage, *, seed: int, shoppers: int, think_seconds: float
    ) -> None:
        self._stage = stage
        self._seed = seed
        self._shoppers = shoppers
        self._think_seconds = think_seconds
        self._periods = 0
        self._put_aside = 0
        """Events that had been put aside when the last period ended."""

    async def run(self, plan: Sequence[Strike], *, until_at: float = float("inf")) -> Report:
        """Carry out a plan, or as much of it as there is time for. Raises nothing that the shop does wrong:
        that is in the report."""
        self._periods += 1
        began = time.monotonic()
        seed = self._seed + 1_000 * self._periods
        name = f"p{self._periods}"
        assert not any(fault.forgets for strike in plan[:-1] for fault in strike), "only at the end"
        has_upsets = any(fault.is_upset for strike in plan for fault in strike)
        market = Market(
            ports=self._stage.ports,
            jwt_secret=self._stage.jwt_secret,
            scarce=[f"{name}-scarce-{n}" for n in range(2)],
            plenty=[f"{name}-plenty-{n}" for n in range(3)],
            seed=seed,
            think_seconds=self._think_seconds,
            name=name,
            # A delivery is no checkout: with the engine's memory its acknowledgement would be lost, too.
            restocks=not has_upsets,
        )
        report = Report(name=f"{name}, acknowledged by {self._stage.ack}")
        delivered = await self._open(market)
        absences = await self._attack(market, plan, report, random.Random(seed), until_at)
        try:
            books = await self._come_to_rest(market, [*delivered])
        except (NeverCalm, TimeoutError) as error:
            report.violations.append(Violation("defect", f"it never came to rest: {error!r}"))
        else:
            report.violations += check(
                market.history,
                books,
                delivered=delivered,
                terms=TERMS,
                absences=absences,
                damage=self._stage.damage if isinstance(self._stage, ProductStage) else NO_DAMAGE,
            )
        _sum_up(report, market, upsets_of(absences))
        report.seconds = time.monotonic() - began
        return report

    async def _open(self, market: Market) -> dict[str, int]:
        """Put the period's SKUs on sale; the units of each."""
        await self._stage.until_ready()
        delivered = dict.fromkeys(market.scarce, SCARCE_UNITS) | dict.fromkeys(market.plenty, PLENTY_UNITS)
        async with calling(f"http://127.0.0.1:{market.ports[0]}") as callers:
            admin = callers.bearer("admin", token(market.jwt_secret, "admin", "admin"))
            for sku, units in delivered.items():
                await admin.put_product(sku, sku, stock=units)
        return delivered

    # --- attack ------------------------------------------------------------------------------------

    async def _attack(
        self, market: Market, plan: Sequence[Strike], report: Report, chance: random.Random, until_at: float
    ) -> list[Absence]:
        meter = Meter()
        market.on_call = meter.on_call
        absences: list[Absence] = []
        shoppers = [Shopper(market, number) for number in range(self._shoppers)]
        # The faults are struck in this task: a process gets its stop signal when the thread that spawned it
        # ends, and no task of the market spawns any.
        visits = [asyncio.create_task(shopper.shop()) for shopper in shoppers]
        visits.append(asyncio.create_task(pay_late(market)))
        visits.append(asyncio.create_task(look_after(market)))
        if market.restocks:
            visits.append(asyncio.create_task(restock(market)))
        try:
            await asyncio.sleep(0.3)
            for strike in plan:
                # When the time is over only what comes last of all is still struck.
                if time.monotonic() > until_at and not any(fault.forgets for fault in strike):
                    continue
                absences += await self._strike(market, strike, meter, report, chance)
        except (NeverCalm, TimeoutError) as error:
            what = f"writes were not accepted again after {[fault.name for fault in strike]}: {error}"
            report.violations.append(Violation("defect", what))
        finally:
            await _close(market, visits)
        return absences

    async def _strike(
        self, market: Market, strike: Strike, meter: Meter, report: Report, chance: random.Random
    ) -> list[Absence]:
        """Strike once and wait until writes are accepted again. TimeoutError when they never are."""
        faults = [fault(self._stage, chance) for fault in strike]  # type: ignore[arg-type]
        before: list[int] = []

        def start() -> None:
            """At the moment when the first of them broke: preparations do not count."""
            if not before:
                meter.start(time.time())
                before.append(market.sent - market.in_flight)

        for fault in faults:
            fault.on_broken = start
        await asyncio.gather(*(fault.strike() for fault in faults))
        well_seconds = None
        if isinstance(self._stage, ProductStage):
            well_seconds = await self._until_well(self._stage, market, faults)
        carts, orders = await meter.until_calm(PATIENCE_SECONDS)
        now = time.time()
        for fault in faults:
            report.struck.append(
                Struck(
                    name=fault.name,
                    at=fault.struck_at,
                    carts_seconds=carts if len(faults) == 1 else None,
                    orders_seconds=orders if len(faults) == 1 else None,
                    under_way=market.sent - before[0],
                    well_seconds=well_seconds,
                )
            )
        return [
            Upset(fault.struck_at, now, self._stage.backup_at if fault.forgets else float("inf"))
            if fault.is_upset
            else Absence(fault.struck_at, now)
            for fault in faults
            if fault.is_upset or fault.is_absence
        ]

    async def _until_well(self, stage: ProductStage, market: Market, faults: Sequence[Fault]) -> float:
        """Seconds since the fault struck. Causes that stay until then are taken away."""
        try:
            await stage.until_ready()
            await asyncio.wait_for(buy_once(market), PATIENCE_SECONDS)
            return time.time() - faults[0].struck_at
        finally:
            for fault in faults:
                if isinstance(fault, ProductFault) and fault.goes_on:
                    await fault.lift()

    # --- rest --------------------------------------------------------------------------------------

    async def _come_to_rest(self, market: Market, skus: Sequence[str]) -> Books:
        """Wait until everything is archived, have the shop look for drift, and read the books."""
        stage = self._stage
        await stage.until_ready()
        redis_url, database_url = stage.urls()

        async def archived() -> bool:
            return await is_archived(redis_url, database_url)

        await until(archived)
        async with calling(f"http://127.0.0.1:{market.ports[0]}") as callers:
            admin = callers.bearer("admin", token(market.jwt_secret, "admin", "admin"))
            found = (await admin.call("POST", "/v1/admin/reconcile")).body
        while True:
            # Holds lapse and payments expire all the time: nobody may write between two readings.
            async with stage.quiet_workers():
                books = await read_books(redis_url, database_url, skus) if await archived() else None
            if books is not None:
                books.drift = [str(entry) for entry in found["drift"]]
                # Those of earlier periods on this stage stay in the record.
                books.put_aside, self._put_aside = books.put_aside - self._put_aside, books.put_aside
                return books
            await asyncio.sleep(0.1)


async def _close(market: Market, visits: Sequence[asyncio.Task[None]]) -> None:
    """Ask everybody to leave; who still repeats a call after a while gives up."""
    market.is_closing = True
    await asyncio.wait(visits, timeout=20)
    market.has_closed = True
    _, staying = await asyncio.wait(visits, timeout=20)
    for visit in staying:
        visit.cancel()
    for visit in visits:
        with suppress(asyncio.CancelledError):
            await visit


def _sum_up(report: Report, market: Market, upsets: Sequence[Upset]) -> None:
    history = market.history
    report.calls.update(call.verdict for call in history)
    report.verbs.update(call.verb for call in history if call.verdict == "ok")
    report.refused_as_sold_out = sum(bool(call.shortfalls) for call in history)
    report.orders = len({call.payment_id for call in history if call.verb == "checkout" and call.payment_id})
    report.forgotten = forgotten(history, upsets)
