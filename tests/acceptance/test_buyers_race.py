"""Goal: 400 buyers who want one of 50 units at once, over HTTP and two API processes: exactly 50 get one, and
whatever then races on each payment, no unit is sold twice and none is lost.

Method: guests and members in turn add the unit at the same moment; those who got it check out, each twice
under one key; then payments, repeated payments, webhooks, failures and cancellations race on each payment,
while those who got nothing go on trying. Every call is recorded. Afterwards the history is held against the
engine, PostgreSQL, its ledger and its events.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
from collections import Counter

from .calling import Call, Caller, Callers, History
from .running import Shop

BUYERS = 400
UNITS = 50
SKU = "RACE-1"

ENDS = {"paid", "cancelled", "refund_due"}


async def test_each_unit_is_sold_once_when_400_buyers_want_50(
    shop: Shop, callers: Callers, admin: Caller
) -> None:
    chance = random.Random(2)
    await admin.put_product("race", SKU, stock=UNITS)
    buyers = [
        callers.bearer(f"member{n}", shop.token(f"buyer{n}")) if n % 2 else callers.guest(f"guest{n}")
        for n in range(BUYERS)
    ]

    # --- 400 want one -----------------------------------------------------------------------------
    added = await asyncio.gather(*(buyer.add(SKU) for buyer in buyers))

    winners = [buyer for buyer, call in zip(buyers, added, strict=True) if call.status == 201]
    losers = [buyer for buyer, call in zip(buyers, added, strict=True) if call.status != 201]
    assert len(winners) == UNITS
    for call in added:
        if call.status != 201:
            assert (call.status, call.code, call.body["available_quantity"]) == (409, "INSUFFICIENT_STOCK", 0)
    assert {buyer.name[:5] for buyer in winners} == {"guest", "membe"}, "one kind of buyer got everything"
    assert shop.books().counters(SKU) == {"on_hand": UNITS, "held": UNITS, "sold": 0, "backordered": 0}

    # --- the 50 check out, twice under one key ------------------------------------------------------
    pairs = await asyncio.gather(
        *(asyncio.gather(*(buyer.check_out(key=f"race-{buyer.name}") for _ in range(2))) for buyer in winners)
    )

    checkouts = [_the_checkout(pair) for pair in pairs]
    assert len({checkout["payment"]["id"] for checkout in checkouts}) == UNITS
    assert shop.books().counters(SKU)["held"] == UNITS

    # --- callbacks, repeated callbacks, failures and cancellations race -------------------------------
    races = [
        _race(chance, callers.guest("gateway"), shop.jwt_secret, buyer, checkout, number)
        for number, (buyer, checkout) in enumerate(zip(winners, checkouts, strict=True))
    ]
    told, _ = await asyncio.gather(asyncio.gather(*races), _keep_trying(chance, losers))

    # --- afterwards -----------------------------------------------------------------------------------
    ends = [
        (await buyer.get(f"/v1/payments/{checkout['payment']['id']}"))["status"]
        for buyer, checkout in zip(winners, checkouts, strict=True)
    ]
    for end, calls in zip(ends, told, strict=True):
        _assert_consistent(end, calls)
    assert Counter(ends)["paid"] > 0
    assert Counter(ends)["cancelled"] > 0

    await asyncio.gather(*(buyer.call("DELETE", "/v1/cart") for buyer in [*winners, *losers]))
    paid = Counter(ends)["paid"]
    assert shop.books().counters(SKU) == {"on_hand": UNITS - paid, "held": 0, "sold": paid, "backordered": 0}
    await shop.books().assert_agree({SKU: UNITS})
    await _assert_archived_once(shop, checkouts, ends)
    await _assert_histories(winners, checkouts, callers.history)
    drift = (await admin.call("POST", "/v1/admin/reconcile")).body
    assert (drift["drift"], drift["repaired"]) == ([], [])


def _the_checkout(pair: list[Call]) -> dict:
    """Two calls under one key: at least one made the checkout, and no other was made."""
    made = [call for call in pair if call.status == 201]
    assert made, pair
    assert all(call.status == 201 or call.code == "IDEMPOTENCY_IN_PROGRESS" for call in pair), pair
    assert len({call.body["checkout_id"] for call in made}) == 1, pair
    assert sum(not call.is_replay for call in made) == 1, pair
    return made[0].body


async def _race(
    chance: random.Random, gateway: Caller, secret: str, buyer: Caller, checkout: dict, number: int
) -> list[Call]:
    """Everything that may happen to a payment, at once. Every third is only cancelled, every fourth of the
    rest only paid for, so that every end has its share."""
    payment_id, order_id = checkout["payment"]["id"], checkout["orders"][0]["order_id"]
    notes = [
        json.dumps({"payment_id": payment_id, "outcome": outcome}).encode() for outcome in ("succeed", "fail")
    ]

    def webhook(body: bytes) -> object:
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return gateway.call("POST", "/v1/webhooks/simulated", content=body, x_simulated_signature=signature)

    calls = [buyer.pay(payment_id, "fail"), webhook(notes[1])]
    if number % 3:
        calls += [buyer.pay(payment_id), buyer.pay(payment_id), webhook(notes[0]), webhook(notes[0])]
    if number % 3 == 0 or number % 4:
        calls += [buyer.cancel(order_id), buyer.cancel(order_id)]
    chance.shuffle(calls)
    return list(await asyncio.gather(*calls))


async def _keep_trying(chance: random.Random, losers: list[Caller]) -> None:
    """Cancelled units are free again: those who got nothing try once more, and some give theirs back."""

    async def one(buyer: Caller, gives_back: bool) -> None:
        call = await buyer.add(SKU)
        assert call.status in (201, 409), call
        if call.status == 201 and gives_back:
            await buyer.call("DELETE", f"/v1/cart/items/{SKU}")

    await asyncio.gather(*(one(buyer, chance.random() < 0.7) for buyer in losers[::3]))


def _assert_consistent(end: str, calls: list[Call]) -> None:
    """What the callers were told can have happened in some order that ends here."""
    assert end in ENDS, (end, calls)
    payments = [call for call in calls if "/simulate" in call.path]
    succeeded = [call for call in payments if call.sent == {"outcome": "succeed"}]
    failed = [call for call in payments if call.sent == {"outcome": "fail"}]
    cancelled = [call for call in calls if call.path.endswith("/cancel")]
    for call in succeeded:
        # Money that has arrived is never refused, and what it did is what stays.
        assert (call.status, call.body["status"]) == (200, end), (end, call)
    for call in failed:
        assert call.status == 200 or call.code in ("PAYMENT_STATE", "PAYMENT_EXPIRED"), call
    for call in cancelled:
        if call.status == 200:
            assert call.body["status"] == "released", call
            assert call.body["release_reason"] == "cancelled", call
        else:
            assert call.code == "ORDER_STATE", call
    for call in calls:
        if "/webhooks/" in call.path:
            assert call.status == 200, call
    if not succeeded:
        assert end == "cancelled", (end, calls)
    if end == "refund_due":
        assert any(call.status == 200 for call in cancelled), calls


async def _assert_archived_once(shop: Shop, checkouts: list[dict], ends: list[str]) -> None:
    """In PostgreSQL: each payment in the state that the API tells, each paid order sold once."""
    ids = [checkout["payment"]["id"] for checkout in checkouts]
    books = shop.books()
    rows = await books.rows("SELECT payment_id, status FROM payments WHERE payment_id = ANY($1)", ids)
    assert {row["payment_id"]: row["status"] for row in rows} == dict(zip(ids, ends, strict=True))
    orders = await books.rows(
        "SELECT payment_id, order_id, status,"
        " (SELECT count(*) FROM stock_ledger l WHERE l.order_id = o.order_id AND kind = 'sale') AS sales"
        " FROM orders o WHERE payment_id = ANY($1)",
        ids,
    )
    assert len(orders) == len(ids)
    for order in orders:
        assert order["sales"] == (order["status"] == "paid"), order
    events = await books.rows(
        "SELECT body->>'payment_id' AS payment_id, type, count(*) AS times FROM events"
        " WHERE body->>'payment_id' = ANY($1) GROUP BY 1, 2",
        ids,
    )
    seen = {(event["payment_id"], event["type"]): event["times"] for event in events}
    for payment_id, end in zip(ids, ends, strict=True):
        assert seen[payment_id, "checkout_begun"] == 1
        assert seen.get((payment_id, "payment_settled"), 0) == (end in ("paid", "refund_due"))
        assert seen.get((payment_id, "payment_released"), 0) <= 1


async def _assert_histories(winners: list[Caller], checkouts: list[dict], history: History) -> None:
    """Each buyer finds exactly the one order, and nobody else's."""
    for buyer, checkout in zip(winners, checkouts, strict=True):
        listed = await buyer.get("/v1/orders")
        assert [order["order_id"] for order in listed["items"]] == [checkout["orders"][0]["order_id"]]
    history.assert_no_defect()
