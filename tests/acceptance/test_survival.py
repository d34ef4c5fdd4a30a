"""Goal: what was acknowledged survives a stop and a start, and the sudden death of every part; the service
recovers by itself.

Method: buyers add, check out and pay, each repeating a call under its key until it knows the outcome, and
keep their own accounts of what they were told. Meanwhile the engine, PostgreSQL, an API process and the
worker are killed (SIGKILL), one after the other, and at last `up` itself. Afterwards accounts, API, engine,
PostgreSQL and its ledger must tell the same story.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from .calling import Call, Caller, Callers, calling, new_key
from .running import Shop, eventually, private_folder, running_shop

BUYERS = 12
SKUS = ("SAFE-1", "SAFE-2", "SAFE-3")
RECEIVED = 5_000

_COUNTDOWN = {"expires_in_seconds", "time_remaining_seconds"}


@pytest.fixture
def own_shop() -> Iterator[Shop]:
    with running_shop() as shop:
        yield shop


class Buyer:
    """Buys without end, and knows at every moment what must be true of its cart and orders."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.cart: Counter[str] = Counter()
        self.orders: dict[str, str] = {}
        """Order ids with the status that was told last."""
        self.units: Counter[str] = Counter()
        """Bought and paid for."""
        self.rounds = 0

    async def buy_until(self, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            await self._buy_once()
            self.rounds += 1

    async def _buy_once(self) -> None:
        for sku in SKUS:
            call = await self._surely(lambda key, sku=sku: self.caller.add(sku, key=key))
            assert call.status == 201, call
            self.cart[sku] += 1
            line = call.body["line"]
            assert (line["sku"], line["quantity"]) == (sku, self.cart[sku]), (self.cart, call)
        call = await self._surely(lambda key: self.caller.check_out(line_ids=list(SKUS[:2]), key=key))
        assert call.status == 201, call
        (order,) = call.body["orders"]
        bought = {line["sku"]: line["quantity"] for line in order["lines"]}
        assert bought == {sku: self.cart[sku] for sku in SKUS[:2]}, (self.cart, call)
        self.orders[order["order_id"]] = "pending"
        for sku in SKUS[:2]:
            del self.cart[sku]
        if self.rounds % 3 == 2:
            call = await self._surely(lambda _: self.caller.cancel(order["order_id"]))
            assert call.status == 200, call
            self.orders[order["order_id"]] = "released"
            self.cart.update(bought)
        else:
            call = await self._surely(lambda _: self.caller.pay(call_id(order)))
            assert (call.status, call.body["status"]) == (200, "paid"), call
            self.orders[order["order_id"]] = "paid"
            self.units.update(bought)
        if self.cart[SKUS[2]] > 50:
            call = await self._surely(
                lambda key: self.caller.call("PATCH", f"/v1/cart/items/{SKUS[2]}", {"quantity": 1}, key=key)
            )
            assert call.status == 200, call
            self.cart[SKUS[2]] = 1

    async def _surely(self, send: Any) -> Call:
        """Repeat one call under one key until its outcome is known."""
        key = new_key()
        while True:
            call: Call = await send(key)
            is_known = call.verdict == "ok" or 400 <= call.status < 500
            if is_known and call.code != "IDEMPOTENCY_IN_PROGRESS":
                return call
            assert call.status in (0, 409, 503, 504), call
            await asyncio.sleep(0.1)


def call_id(order: dict[str, Any]) -> str:
    payment_id: str = order["payment_id"]
    return payment_id


async def test_nothing_acknowledged_is_lost_when_every_part_is_killed(own_shop: Shop) -> None:
    shop = own_shop
    async with calling(shop.url, timeout_seconds=10) as callers:
        admin = callers.bearer("admin", shop.token("admin", "admin"))
        for sku in SKUS:
            await admin.put_product(f"product-{sku}", sku, stock=RECEIVED)
        buyers = [Buyer(callers.bearer(f"buyer{n}", shop.token(f"buyer{n}"))) for n in range(BUYERS)]

        async with _buying(buyers):
            await _progress(buyers)
            for name in ("engine", "postgres", "api", "worker"):
                before = shop.pids(name)
                # Of two API processes one dies, so that the other has to carry on.
                os.kill(before[0], signal.SIGKILL)
                await asyncio.to_thread(
                    eventually, lambda name=name, before=before: _is_replaced(shop, name, before)
                )
                await _until_ready(admin)
                await _progress(buyers)
            await asyncio.to_thread(shop.stop, signal.SIGKILL)
            await asyncio.to_thread(shop.start)
            await _progress(buyers)

        await _assert_story(shop, admin, buyers, callers)


async def _until_ready(admin: Caller) -> None:
    async with asyncio.timeout(60):
        while True:
            told = await admin.call("GET", "/health/ready")
            if told.status == 200 and told.body["status"] == "ok":
                return
            await asyncio.sleep(0.1)


def _is_replaced(shop: Shop, name: str, before: list[int]) -> bool:
    """The dead one has a successor in the pid file, and the others are untouched."""
    now = shop.pids(name)
    return len(now) == len(before) and before[0] not in now and set(before[1:]) <= set(now)


@asynccontextmanager
async def _buying(buyers: list[Buyer]) -> AsyncIterator[None]:
    stopped = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for buyer in buyers:
            tasks.create_task(buyer.buy_until(stopped))
        try:
            yield
        finally:
            stopped.set()


async def _progress(buyers: list[Buyer]) -> None:
    """Wait until most buyers have bought once more."""
    goal = [buyer.rounds + 1 for buyer in buyers]
    async with asyncio.timeout(60):
        while (  # noqa: ASYNC110 (no event: a round of each of them)
            sum(buyer.rounds >= rounds for buyer, rounds in zip(buyers, goal, strict=True)) < BUYERS // 2
        ):
            await asyncio.sleep(0.05)


async def _assert_story(shop: Shop, admin: Caller, buyers: list[Buyer], callers: Callers) -> None:
    bad = [call for call in callers.history if call.status >= 500 and call.status not in (503, 504)]
    assert not bad, bad[:3]
    sold: Counter[str] = Counter()
    for buyer in buyers:
        sold.update(buyer.units)
        cart = await buyer.caller.get("/v1/cart")
        assert {line["sku"]: line["quantity"] for line in cart["items"]} == +buyer.cart, buyer.caller.name
        for line in cart["items"]:
            # A cancelled checkout gave its lines back unheld; this one was never checked out.
            if line["sku"] == SKUS[2]:
                assert line["hold"]["quantity"] == line["quantity"], line
        assert (await buyer.caller.call("POST", "/v1/cart/validate")).body["is_valid"], buyer.caller.name
        listed, cursor = {}, ""
        while cursor is not None:
            page = await buyer.caller.get(f"/v1/orders?limit=250{cursor}")
            listed |= {order["order_id"]: order["status"] for order in page["items"]}
            cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
        assert listed == buyer.orders, buyer.caller.name
    await shop.books().assert_agree(dict.fromkeys(SKUS, RECEIVED))
    for sku in SKUS:
        assert shop.books().counters(sku)["sold"] == sold[sku], sku
    rows = await shop.books().rows("SELECT order_id, status FROM orders")
    told = {order_id: status for buyer in buyers for order_id, status in buyer.orders.items()}
    assert {row["order_id"]: row["status"] for row in rows} == told
    drift = (await admin.call("POST", "/v1/admin/reconcile")).body
    assert (drift["drift"], drift["repaired"]) == ([], [])


async def test_a_request_that_is_cut_off_by_a_stop_is_told_that_its_outcome_is_unknown(shop: Shop) -> None:
    """A body that does not come keeps a process from its end no longer than its patience; then it says so."""
    # Entered and left in a thread, because its end takes as long as the patience lasts.
    beside = shop.api_beside()
    url = await asyncio.to_thread(beside.__enter__)
    try:
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"POST /v1/cart/items HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        await asyncio.sleep(0.2)
        waiting = asyncio.create_task(reader.read())
    finally:
        await asyncio.to_thread(beside.__exit__, None, None, None)
    answer = await waiting
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 504 "), answer
    assert b"application/problem+json" in answer, answer
    assert b"OUTCOME_UNKNOWN" in answer, answer


async def test_data_survive_when_the_shop_is_stopped_and_started() -> None:
    with private_folder() as folder:
        shop = Shop(folder / "shop")
        shop.start()
        async with calling(shop.url) as callers:
            admin = callers.bearer("admin", shop.token("admin", "admin"))
            await admin.put_product("kept", "KEPT-1", "KEPT-2", stock=9)
            member, guest = callers.bearer("ann", shop.token("ann")), callers.guest()
            for buyer in (member, guest):
                assert (await buyer.add("KEPT-1", 2, key="once", properties={"note": "blue"})).status == 201
                assert (await buyer.add("KEPT-2")).status == 201
            paid = await member.check_out(line_ids=["KEPT-2"], key="paid")
            assert (await member.pay(paid.body["payment"]["id"])).status == 200
            pending = await guest.check_out(line_ids=["KEPT-2"], key="pending")
            before = await _everything(member, guest, admin)

        try:
            assert shop.stop() == 0
            shop.start()
            async with calling(shop.url) as callers:
                again = [
                    Caller(callers.client, callers.history, caller.name, **caller.headers)
                    for caller in (member, guest, admin)
                ]

                assert await _everything(*again) == before

                # Keys are remembered too, and what was begun goes on.
                member, guest, _ = again
                repeated = await member.add("KEPT-1", 2, key="once", properties={"note": "blue"})
                assert repeated.is_replay, repeated
                repeated = await member.check_out(line_ids=["KEPT-2"], key="paid")
                assert repeated.is_replay, repeated
                assert repeated.body["payment"]["status"] == "paid"
                assert (await guest.pay(pending.body["payment"]["id"])).body["status"] == "paid"
                await shop.books().assert_agree({"KEPT-1": 9, "KEPT-2": 9})
                callers.history.assert_no_defect()
        finally:
            if shop.is_running():
                shop.stop()


async def _everything(member: Caller, guest: Caller, admin: Caller) -> Any:
    """What each of them can see, without countdowns."""
    seen = [
        *[await caller.get(path) for caller in (member, guest) for path in ("/v1/cart", "/v1/orders")],
        *[await admin.get(f"/v1/stock/{sku}") for sku in ("KEPT-1", "KEPT-2")],
        await admin.get("/v1/products/kept"),
    ]
    return _without_countdowns(seen)


def _without_countdowns(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_countdowns(member) for name, member in value.items() if name not in _COUNTDOWN}
    return [_without_countdowns(member) for member in value] if isinstance(value, list) else value
