"""Goal: while PostgreSQL is away, cart writes go on and readiness says what is wrong; checkouts go on where
the engine's word is enough, and are refused honestly where it is not. Nothing is lost or doubled afterwards.

Method: the whole process tree of PostgreSQL is stopped with SIGSTOP, which is worse than a death: connections
stay open and nobody answers. Beside the shop's own API process, which acknowledges on the engine's word, a
second one acknowledges only what is archived. After SIGCONT everything refused or unknown is repeated under
its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from .calling import Call, Caller, Callers, calling, until
from .running import Shop, running_shop

SKU = "AWAY-1"
RECEIVED = 100
BUYERS = 4
READERS = 10
ONLY_THE_DATABASE = (
    "/v1/products",
    "/v1/products/away",
    "/v1/orders",
    "/v1/orders/0.none",
    "/v1/payments/0.none",
    "/v1/admin/orders",
    f"/v1/admin/stock/{SKU}/ledger",
)


@pytest.fixture(scope="module")
def quiet_shop() -> Iterator[Shop]:
    with running_shop(processes=1) as shop:
        yield shop


async def test_carts_and_checkouts_go_on_when_the_database_is_away(quiet_shop: Shop) -> None:
    shop = quiet_shop
    with shop.api_beside(checkout_ack="archived", ack_timeout_ms=2_000) as strict_url:
        async with calling(shop.url) as callers, calling(strict_url) as strict:
            admin = callers.bearer("admin", shop.token("admin", "admin"))
            await admin.put_product("away", SKU, stock=RECEIVED)
            await admin.put_product("cold", "COLD-1", stock=RECEIVED)
            trusting = [callers.bearer(f"t{n}", shop.token(f"t{n}")) for n in range(BUYERS)]
            demanding = [strict.bearer(f"d{n}", shop.token(f"d{n}")) for n in range(BUYERS)]
            # Both processes have shown the product before: its name is not asked for again.
            for process in (callers, strict):
                early = await process.bearer("early", shop.token("early")).add(SKU)
                assert early.status == 201, early

            with shop.frozen("postgres"):
                # --- cart writes --------------------------------------------------------------------
                for buyer in [*trusting, *demanding, callers.guest()]:
                    added = await buyer.add(SKU, 2)
                    assert (added.status, added.body["line"]["hold"]["quantity"]) == (201, 2), added
                    changed = await buyer.call("PATCH", f"/v1/cart/items/{SKU}", {"quantity": 3})
                    assert changed.status == 200, changed
                    assert (await buyer.get("/v1/cart"))["total_items"] == 3
                # Also of what this process has never shown: it has no name then, but it is held.
                cold = await callers.guest().add("COLD-1", 2)
                assert (cold.status, cold.body["line"]["hold"]["quantity"]) == (201, 2), cold
                level = await admin.get(f"/v1/stock/{SKU}")
                assert (level["held"], level["on_hand"]) == (3 * (2 * BUYERS + 1) + 2, RECEIVED)

                # --- reads that only the database can answer, more at once than it has connections ----------
                reads = await asyncio.gather(
                    *(admin.call("GET", path) for path in ONLY_THE_DATABASE for _ in range(READERS))
                )
                assert {(call.status, call.code) for call in reads} == {(503, "STORE_UNAVAILABLE")}, reads

                # --- readiness and checkouts; side by side, because some wait long for an answer --------
                told, begun, refused = await asyncio.gather(
                    admin.call("GET", "/health/ready"),
                    asyncio.gather(*(buyer.check_out(key="away") for buyer in trusting)),
                    asyncio.gather(*(buyer.check_out(key="away") for buyer in demanding)),
                )
                assert (told.status, told.body["ready"], told.body["status"]) == (200, True, "degraded"), told
                assert told.body["checks"]["database"]["ok"] is False, told
                assert told.body["checks"]["engine"]["ok"], told
                for route in ("live", "serving"):
                    assert (await admin.call("GET", f"/health/{route}")).status == 200

                assert {call.status for call in begun} == {201}, begun
                again, paid, cancelled = await asyncio.gather(
                    trusting[2].check_out(key="away"),
                    trusting[0].pay(begun[0].body["payment"]["id"]),
                    trusting[1].cancel(begun[1].body["orders"][0]["order_id"]),
                )
                assert (again.status, again.is_replay) == (201, True), again
                assert again.body["checkout_id"] == begun[2].body["checkout_id"]
                assert (paid.status, paid.body["status"]) == (200, "paid"), paid
                assert (cancelled.status, cancelled.body["status"]) == (200, "released"), cancelled

                assert {call.status for call in refused} <= {503, 504}, refused
                assert {call.code for call in refused} <= {"STORE_UNAVAILABLE", "OUTCOME_UNKNOWN"}, refused
                for buyer, call in zip(demanding, refused, strict=True):
                    if call.status == 503:
                        # "Not applied" is taken at its word.
                        assert (await buyer.get("/v1/cart"))["total_items"] == 3

            # --- it is back -------------------------------------------------------------------------------
            await until(lambda: _is_well(admin))
            retried = await asyncio.gather(*(_until_known(buyer) for buyer in demanding))
            assert {call.status for call in retried} == {201}, retried
            repeated = await asyncio.gather(*(buyer.check_out(key="away") for buyer in demanding))
            assert [call.body["checkout_id"] for call in repeated] == [
                call.body["checkout_id"] for call in retried
            ]
            await shop.books().assert_agree({SKU: RECEIVED})
            await _assert_orders(shop, callers, strict, trusting, begun, demanding, retried)


async def test_readiness_and_catalog_say_so_when_the_engine_is_away(quiet_shop: Shop) -> None:
    """The other way round: browsing goes on, and carts are refused as not applied, never as sold out."""
    shop = quiet_shop
    async with calling(shop.url) as callers:
        admin = callers.bearer("admin", shop.token("admin", "admin"))
        await admin.put_product("browsed", "BROWSED-1", stock=5)
        buyer = callers.bearer("b", shop.token("b"))
        assert (await buyer.add("BROWSED-1")).status == 201

        with shop.frozen("engine"):
            product = await buyer.get("/v1/products/browsed")
            assert [variant["available"] for variant in product["variants"]] == [None]
            call = await buyer.add("BROWSED-1", key="while-away")
            assert call.status in (503, 504), call
            told = await admin.call("GET", "/health/ready")
            assert (told.status, told.body["checks"]["engine"]["ok"]) == (503, False), told

        await until(lambda: _is_ready(admin))
        call = await buyer.add("BROWSED-1", key="while-away")
        assert call.status == 201, call
        assert call.body["line"]["quantity"] == 2, "the call was applied twice, or the first one got lost"


async def _is_well(admin: Caller) -> bool:
    return bool((await admin.get("/health/ready"))["status"] == "ok")


async def _is_ready(admin: Caller) -> bool:
    return (await admin.call("GET", "/health/ready")).status == 200


async def _until_known(buyer: Caller) -> Call:
    while (call := await buyer.check_out(key="away")).status in (409, 503, 504):
        assert call.status != 409 or call.code == "IDEMPOTENCY_IN_PROGRESS", call
        await asyncio.sleep(0.1)
    return call


async def _assert_orders(
    shop: Shop,
    callers: Callers,
    strict: Callers,
    trusting: list[Caller],
    begun: list[Call],
    demanding: list[Caller],
    retried: list[Call],
) -> None:
    """Each buyer has the one order that was acknowledged, in the API and in PostgreSQL, and nothing twice."""
    expected = {}
    for buyer, call in zip([*trusting, *demanding], [*begun, *retried], strict=True):
        (order,) = call.body["orders"]
        listed = await buyer.get("/v1/orders")
        assert [entry["order_id"] for entry in listed["items"]] == [order["order_id"]], buyer.name
        expected[order["order_id"]] = "pending"
        left = 3 if buyer is trusting[1] else 0
        assert (await buyer.get("/v1/cart"))["total_items"] == left, buyer.name
    expected[begun[0].body["orders"][0]["order_id"]] = "paid"
    expected[begun[1].body["orders"][0]["order_id"]] = "released"
    rows = await shop.books().rows("SELECT order_id, status FROM orders")
    assert {row["order_id"]: row["status"] for row in rows} == expected
    for history in (callers.history, strict.history):
        assert not [call for call in history if call.status == 500]
