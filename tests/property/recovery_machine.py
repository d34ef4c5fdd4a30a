"""A machine that lets everything go wrong with one store: deaths at any failpoint, jobs that come twice,
late or beside each other, an engine that is replaced by an empty one or by an older copy, a clock set back.

There is no model beside it: which events an engine took with it when it was lost is known to nobody, so what
must be true is said of the store itself. After every step, as long as the gate is open: each SKU's units are
on hand or sold and nowhere else, what is held is what somebody holds, and no more than is there. Over all
steps: what the record has seen of a payment only goes forward, a version of a cart never stands for two
states, a key gives one checkout. After every recovery: what was archived is there.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

from contract.shop import LIFETIME_MS, MINUTE_MS, SECOND_MS, WINDOW_MS
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cartstore import Owner, Product, Variant
from cartstore.archive.raised_epoch import PUT_ASIDE
from cartstore.archive.snapshots import SnapshotState
from cartstore.errors import CartError, StoreRecovering
from cartstore.failpoints import FAILPOINTS
from cartstore.model import Event, Position, PurchaseLimit, checkout_ids
from cartstore.recovery import gate as recovery_gate
from cartstore.recovery.reconcile import Reconciler
from cartstore.recovery.report import table
from cartstore.recovery.snapshots import CartDump

from .machine import _reachable
from .shop_with_record import Died, ShopWithRecord, dying_at, open_shop_with_record

T = TypeVar("T")

SKUS = ("a", "b", "c")
LIMIT = PurchaseLimit(quantity=4, window_seconds=20 * MINUTE_MS // 1_000)
OWNERS = (Owner("user", "ann"), Owner("user", "ben"), Owner("guest", "gus"))
STEP_SECONDS_MAX = 30.0
JOBS = ("drain", "snapshot", "sweep", "expire")
STORIES = {
    "drain": "drain",
    "snapshot": "snapshot",
    "recovery": "recover",
    "rebuild": "recover",
    "checkout": "checkout",
    "settle": "settle",
}
"""By the first part of a failpoint's name: what is under way when it is reached."""

owners = st.sampled_from(OWNERS)
skus = st.sampled_from(SKUS)
places = st.integers(0, 5)
elapses = st.sampled_from(
    (SECOND_MS, MINUTE_MS, 9 * MINUTE_MS, 10 * MINUTE_MS, WINDOW_MS, -MINUTE_MS, -(LIFETIME_MS + MINUTE_MS))
)
deaths = st.sampled_from(sorted(name for name in FAILPOINTS if name.split(".")[0] in STORIES))


class RecoveryMachine(RuleBasedStateMachine):
    """`urls` are those of the engine and of a database, both the machine's own."""

    urls: ClassVar[tuple[str, str]]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.opening = open_shop_with_record(*type(self).urls)
        self.shop: ShopWithRecord = self.run(self.opening.__aenter__())
        self.store = self.shop.store
        self.references = 0
        self.keys: list[tuple[Owner, str]] = []
        """Every key under which a checkout was tried, answered or not."""
        self.kept: dict[str, Owner] = {}
        """Payments that were acknowledged and that no loss of an engine can have taken."""
        self.recorded: dict[str, Any] = {}
        """By payment: its last status in the record."""
        self.told: dict[int, Any] = {}
        """By version: which cart had it, and what it was then."""
        self.copies: list[dict[bytes, bytes]] = []
        self.late_events: list[Event] = []
        self.late_position: Position | None = None
        self.late_dump: CartDump | None = None
        self.silence, recovery_gate.REBUILD_SILENCE_SECONDS = recovery_gate.REBUILD_SILENCE_SECONDS, 0.0
        self.is_sound = True

    def teardown(self) -> None:
        try:
            if self.is_sound:
                self.run(self.prove_at_the_end())
        finally:
            recovery_gate.REBUILD_SILENCE_SECONDS = self.silence
            self.run(self.opening.__aexit__(None, None, None))
            self.loop.close()

    def run(self, awaitable: Awaitable[T]) -> T:
        async def whole() -> T:
            # A broken store may go round for ever; nothing here takes a second.
            async with asyncio.timeout(STEP_SECONDS_MAX):
                return await awaitable

        return self.loop.run_until_complete(whole())

    async def attempt(self, awaitable: Awaitable[T]) -> T | None:
        """A call that may be refused: by the contract, or by a gate that is shut."""
        with suppress(CartError, StoreRecovering):
            return await awaitable
        return None

    # --- what buyers and the shop do -----------------------------------------------------------

    @initialize(units=st.lists(st.integers(1, 6), min_size=3, max_size=3))
    def open_the_shop(self, units: list[int]) -> None:
        async def stock_up() -> None:
            await self.store.recover()
            await self.publish()
            for sku, count in zip(SKUS, units, strict=True):
                await self.store.adjust_stock(sku, count, reason="delivery", reference="first")
            for owner, sku in zip(OWNERS, SKUS, strict=True):
                await self.attempt(self.store.add_line(owner, sku, 1))

        self.run(stock_up())

    async def publish(self, on_order: str = "") -> None:
        """`on_order`: a SKU that is sold beyond stock."""
        variants = tuple(
            Variant(
                sku=sku,
                options={"Size": sku},
                price_minor=1_000,
                policy="backorder" if sku == on_order else "deny",
                hold_policy="on_checkout" if sku == "c" else "on_add",
                max_per_customer=LIMIT if sku == "a" else None,
            )
            for sku in SKUS
        )
        await self.store.put_product(
            Product(id="tee", title="Tee", currency="USD", options=("Size",), variants=variants)
        )

    @rule(
        owner=owners, sku=skus, quantity=st.integers(1, 6), is_paid=st.booleans(), arriving=st.integers(0, 2)
    )
    def sell_beyond_stock(self, owner: Owner, sku: str, quantity: int, is_paid: bool, arriving: int) -> None:
        """Units are owed, and some may arrive at once. From then on the SKU is held again."""

        async def sell() -> None:
            if not (await self.store.readiness())["checks"]["gate"]["ok"]:
                return
            await self.publish(on_order=sku)
            await self.attempt(self.store.add_line(owner, sku, quantity))
            key = f"k{len(self.keys)}"
            await self.checking_out(owner, key)
            if is_paid:
                await self.paying(checkout_ids(self.store.partition, owner.cart_id, key)[1], "succeeded")
            await self.publish()

        self.run(sell())
        if arriving:
            self.adjust(sku, arriving, is_repeated=False)

    @rule(sku=skus, delta=st.sampled_from((-1, 1, 2, 3)), is_repeated=st.booleans())
    def adjust(self, sku: str, delta: int, is_repeated: bool) -> None:
        self.references += not is_repeated
        reference = f"r{self.references}"
        self.run(self.attempt(self.store.adjust_stock(sku, delta, reason="count", reference=reference)))

    @rule(owner=owners, sku=skus, quantity=st.integers(1, 3))
    def add(self, owner: Owner, sku: str, quantity: int) -> None:
        self.run(self.attempt(self.store.add_line(owner, sku, quantity)))

    @rule(owner=owners, sku=skus, quantity=st.integers(0, 3))
    def change(self, owner: Owner, sku: str, quantity: int) -> None:
        self.run(self.attempt(self.store.set_quantity(owner, sku, quantity)))

    @rule(owner=owners)
    def check_out(self, owner: Owner) -> None:
        self.run(self.checking_out(owner, f"k{len(self.keys)}"))

    @precondition(lambda self: self.keys)
    @rule(place=places)
    def check_out_again(self, place: int) -> None:
        """Whoever got no answer repeats the call under its key, however late."""
        self.run(self.checking_out(*self.keys[-1 - place % len(self.keys)]))

    async def checking_out(self, owner: Owner, key: str) -> None:
        if (owner, key) not in self.keys:
            self.keys.append((owner, key))
        checkout = await self.attempt(
            self.store.begin_checkout(
                owner,
                idempotency_key=key,
                gateway="simulated",
                payment_method="card",
                details={"contact": {"email": f"{owner.id}@shop.test"}},
            )
        )
        if checkout is not None:
            _, payment_id = checkout_ids(self.store.partition, owner.cart_id, key)
            assert checkout.payment.payment_id == payment_id
            self.kept[payment_id] = owner

    @precondition(lambda self: self.kept or self.recorded)
    @rule(place=places, verb=st.sampled_from(("succeeded", "succeeded", "failed", "cancel")))
    def pay(self, place: int, verb: Any) -> None:
        known = sorted({*self.kept, *self.recorded})
        self.run(self.paying(known[place % len(known)], verb))

    async def paying(self, payment_id: str, verb: Any) -> None:
        if verb == "cancel":
            found = await self.attempt(self.store.read_payment(payment_id, None))
            if found is not None:
                owner = Owner(
                    "guest" if found.payment.cart_id[0] == "g" else "user", found.payment.cart_id[2:]
                )
                await self.attempt(self.store.cancel_order(found.payment.order_ids[0], owner))
        else:
            await self.attempt(self.store.apply_verdict(payment_id, verb))

    @rule(elapsed_ms=elapses)
    def pass_time(self, elapsed_ms: int) -> None:
        self.shop.clock.now_ms += elapsed_ms

    # --- jobs: at their time, twice, beside each other, late -----------------------------------

    @rule(job=st.sampled_from(JOBS), times=st.sampled_from((1, 1, 2)), together=st.booleans())
    def work(self, job: str, times: int, together: bool) -> None:
        async def work() -> None:
            if together:
                await asyncio.gather(*(self.attempt(self.job(job)) for _ in range(times)))
            else:
                for _ in range(times):
                    await self.attempt(self.job(job))

        self.run(work())

    def job(self, name: str) -> Awaitable[Any]:
        match name:
            case "drain":
                return self.store.drain_outbox()
            case "snapshot":
                return self.store.snapshot_carts()
            case "sweep":
                return self.store.release_due(100)
            case _:
                return self.store.expire_payments(100)

    @rule()
    def begin_late_jobs(self) -> None:
        """A drain and a snapshot get as far as having read; they go on some other time."""

        async def read() -> None:
            cursor, _ = await self.store.archive.cursor()
            self.late_events = await self.shop.outbox.read(cursor, 100)
            self.late_position = self.late_events[-1].position if self.late_events else None
            after = (await self.store.archive.snapshots.state()).change
            self.late_dump = await self.attempt(self.store.engine.dump_carts(after, 100))  # type: ignore[attr-defined]

        self.run(read())

    @precondition(lambda self: self.late_events or self.late_dump)
    @rule()
    def end_late_jobs(self) -> None:
        async def write() -> None:
            if self.late_events and await self.is_of_the_same_engine():
                with suppress(StoreRecovering):
                    position = await self.store.archive.apply_events(self.late_events)
                    await self.attempt(self.shop.outbox.trim(position))
            if self.late_dump is not None:
                state = SnapshotState(change=self.late_dump.change, at_ms=self.late_dump.at_ms)
                with suppress(StoreRecovering):
                    await self.store.archive.snapshots.save(
                        self.late_dump.carts,
                        state,
                        epoch=self.late_dump.epoch,
                        position=self.late_dump.position,
                    )

        self.run(write())

    @rule(owner=owners, sku=skus, quantity=st.integers(0, 3), checks_out=st.booleans())
    def work_late(self, owner: Owner, sku: str, quantity: int, checks_out: bool) -> None:
        """A job that has read sleeps while another does the same and more, and then writes what it read."""
        self.run(self.attempt(self.store.add_line(owner, sku, 1)))
        self.begin_late_jobs()
        self.run(self.attempt(self.store.set_quantity(owner, sku, quantity)))
        if checks_out:
            self.check_out(owner)
        for job in ("drain", "snapshot"):
            self.run(self.attempt(self.job(job)))
        self.end_late_jobs()
        self.lose_nothing_that_is_archived()

    async def is_of_the_same_engine(self) -> bool:
        """Whether no gap lies between the record and what the late drain holds; if one does it says so."""
        cursor, _ = await self.store.archive.cursor()
        first = self.late_events[0].position if self.late_events else None
        return first is None or first.seq <= cursor.seq + 1

    # --- faults --------------------------------------------------------------------------------

    @rule(failpoint=deaths, passes=st.sampled_from((1, 1, 1, 2)), owner=owners, place=places)
    def die(self, failpoint: str, passes: int, owner: Owner, place: int) -> None:
        """A process dies in the middle of what the failpoint is about, if it gets there."""
        story = STORIES[failpoint.split(".")[0]]

        async def act() -> None:
            match story:
                case "drain" | "snapshot":
                    await self.attempt(self.job(story))
                case "recover":
                    await self.attempt(self.store.recover())
                case "checkout":
                    await self.checking_out(owner, f"k{len(self.keys)}")
                case _:
                    known = sorted({*self.kept, *self.recorded})
                    if known:
                        await self.paying(known[place % len(known)], "succeeded")

        with dying_at(failpoint, passes), suppress(Died):
            self.run(act())

    @rule()
    def copy_the_engine(self) -> None:
        self.copies.append(self.run(self.shop.copy_engine()))

    @rule(is_emptied=st.booleans(), place=places, failpoint=deaths)
    def lose_the_engine(self, is_emptied: bool, place: int, failpoint: str) -> None:
        """Another engine is there, empty or as it was once; a first recoverer may die on the way."""
        contents = {} if is_emptied or not self.copies else self.copies[-1 - place % len(self.copies)]

        async def lose() -> None:
            await self.shop.replace_engine(contents)
            recorded = {row.payment_id for row in await self.shop.rows("SELECT payment_id FROM payments")}
            # What was not archived may be lost with it: mode `engine` promises no more on such an engine.
            self.kept = {one: owner for one, owner in self.kept.items() if one in recorded}

        self.run(lose())
        with dying_at(failpoint, 1), suppress(Died):
            self.run(self.attempt(self.store.recover()))

    @rule(owner=owners, sku=skus)
    def write_late_after_a_loss(self, owner: Owner, sku: str) -> None:
        """A job that has read sleeps while its engine is lost and another takes over, and then writes."""
        self.run(self.attempt(self.store.add_line(owner, sku, 1)))
        self.adjust(sku, 1, is_repeated=False)
        self.begin_late_jobs()
        self.lose_the_engine(is_emptied=True, place=0, failpoint="checkout.acknowledged")
        self.run(self.recovering())
        self.end_late_jobs()
        self.lose_nothing_that_is_archived()

    @rule()
    def restart_the_engine(self) -> None:
        """It comes back with all that it had, and is another one."""
        self.run(self.shop.replace_engine(self.run(self.shop.copy_engine())))

    @rule()
    def recover(self) -> None:
        self.run(self.recovering())

    async def recovering(self) -> None:
        for _ in range(10):
            with suppress(StoreRecovering):
                await self.store.recover()
            if (await self.store.readiness())["checks"]["gate"]["ok"]:
                break
        else:
            raise AssertionError("the gate stays shut")
        for payment_id, owner in self.kept.items():
            assert (await self.store.read_payment(payment_id, owner)).payment.payment_id == payment_id

    @rule()
    def lose_nothing_that_is_archived(self) -> None:
        """All jobs are done and the clock stands still: then an emptied engine has everything again."""

        async def lose() -> None:
            await self.recovering()
            for name in ("sweep", "expire", "drain", "snapshot"):
                await self.job(name)
            before = [await self.contents(owner) for owner in OWNERS]
            # Reading releases what is due, so that the record may have to be told once more.
            await self.job("drain")
            await self.job("snapshot")
            levels = [await self.store.read_stock(sku) for sku in SKUS]
            if await self.has_an_extended_window():
                # The record keeps the window that a checkout began with: a second loss gives back only its
                # own time (docs/operations.md), so that a payment may be due which was pending before.
                return
            await self.shop.replace_engine({})
            await self.recovering()

            after = [await self.contents(owner) for owner in OWNERS]
            assert after == before, (after, before)
            assert [await self.store.read_stock(sku) for sku in SKUS] == levels

        self.run(lose())

    async def has_an_extended_window(self) -> bool:
        recorded = {
            payment.payment_id: payment.expires_at_ms
            for payment, _ in await self.store.archive.pending_payments()
        }
        pending = [
            checkout.payment
            for owner in OWNERS
            for checkout in await self.store.engine.list_payments(owner.cart_id)
            if checkout.payment.status == "pending"
        ]
        return any(its.expires_at_ms > recorded.get(its.payment_id, its.expires_at_ms) for its in pending)

    async def contents(self, owner: Owner) -> list[tuple[Any, ...]]:
        cart = await self.store.read_cart(owner)
        return [(line.line_id, line.quantity, line.held, line.unit_price_minor) for line in cart.lines]

    # --- what has to hold ----------------------------------------------------------------------

    @invariant()
    def everything_holds(self) -> None:
        self.is_sound = False
        self.run(self.check())
        self.is_sound = True

    async def check(self) -> None:
        await self.check_record_goes_forward()
        if not (await self.store.readiness())["checks"]["gate"]["ok"]:
            return
        try:
            levels = [await self.store.read_stock(sku) for sku in SKUS]
            carts = [await self.store.read_cart(owner) for owner in OWNERS]
            listed = [
                checkout
                for owner in OWNERS
                for checkout in await self.store.engine.list_payments(owner.cart_id)
            ]
            again = [await self.store.read_stock(sku) for sku in SKUS]
        except StoreRecovering:
            return
        if again != levels:
            # A cart's or an order's due holds of another SKU were released by the reading itself.
            levels = again
        adjusted = await self.adjusted_units()
        held: defaultdict[str, int] = defaultdict(int)
        for cart in carts:
            lines = [(line.line_id, line.quantity, line.unit_price_minor) for line in cart.lines]
            if cart.summary.version:
                state = (cart.cart_id, lines)
                assert self.told.setdefault(cart.summary.version, state) == state
            for line in cart.lines:
                assert 0 <= line.held <= line.quantity
                held[line.sku] += line.held
        for checkout in listed:
            for order in checkout.orders:
                for bought in order.lines:
                    held[bought.sku] += bought.held if order.status == "pending" else 0
        for level in levels:
            assert level.on_hand + level.sold - level.backordered == adjusted[level.sku], level
            assert not level.backordered or level.on_hand == level.held, level
            assert 0 <= level.held <= level.on_hand, level
            assert level.held == held[level.sku], level

    async def adjusted_units(self) -> Counter[str]:
        """Units that came in, by the ledger and by the events that are on their way to it."""
        cursor, _ = await self.store.archive.cursor()
        units: Counter[str] = Counter()
        for row in await self.shop.rows(
            "SELECT sku, sum(delta) AS units FROM stock_ledger WHERE kind = 'adjust' GROUP BY sku"
        ):
            units[row.sku] += int(row.units)
        for event in await self.shop.outbox.read(cursor, 10_000):
            if event.type == "stock_adjusted":
                units[event.body["sku"]] += int(event.body["delta"])
        return units

    async def check_record_goes_forward(self) -> None:
        rows = await self.shop.rows("SELECT payment_id, status FROM payments")
        now = {row.payment_id: row.status for row in rows}
        for payment_id, status in self.recorded.items():
            assert now[payment_id] in _reachable(status), (payment_id, status, now[payment_id])
        self.recorded = now
        # Events of an engine that another one took over from are put aside, and stop no sale.
        assert not await self.shop.rows(f"SELECT * FROM rejected_events WHERE reason NOT LIKE '{PUT_ASIDE}%'")
        assert not await self.store.archive.quarantine.frozen()

    async def prove_at_the_end(self) -> None:
        """Everything is finished by what is left running, and both stores tell the same story."""
        await self.recovering()
        await self.check()
        await self.job("drain")
        await self.job("snapshot")
        await self.check()
        report = await Reconciler(self.store, confirm_seconds=0.0).run()
        assert not report.drift, table(report)
        assert not report.repaired, table(report)
        sold = await self.shop.rows(
            "SELECT sku, sum(quantity) AS units FROM order_lines JOIN orders USING (order_id)"
            " WHERE status = 'paid' GROUP BY sku"
        )
        units = {row.sku: int(row.units) for row in sold}
        waiting = await self.shop.rows("SELECT sku, sum(owed) AS units FROM backorders GROUP BY sku")
        owed = {row.sku: int(row.units) for row in waiting}
        for sku in SKUS:
            level = await self.store.read_stock(sku)
            assert level.sold == units.get(sku, 0)
            assert level.backordered == owed.get(sku, 0)
