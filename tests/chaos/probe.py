"""The customer who shows that a shop is well again: somebody new, on new connections."""

from __future__ import annotations

import asyncio
import random

from acceptance.running import token

from .shoppers import Caller, Market, checkout_of, pay


async def buy_once(market: Market) -> None:
    """One customer adds, checks out and pays, on connections of their own; begins anew with another one until
    all of it succeeds."""
    while True:
        market.probes += 1
        name = f"{market.name}-probe-{market.probes}"
        bearer = token(market.jwt_secret, name)
        chance = random.Random(f"{market.seed} {name}")
        caller = Caller(market, name, f"Authorization: Bearer {bearer}\r\n", chance)
        try:
            body = {"sku": market.plenty[0], "quantity": 1}
            added = await caller.surely("add", "POST", "/v1/cart/items", body, sku=body["sku"], quantity=1)
            if added is not None and added.verdict == "ok":
                begun = await caller.surely("checkout", "POST", "/v1/checkout", checkout_of([body["sku"]]))
                if begun is not None and begun.verdict == "ok":
                    paid = await pay(caller, begun.payment_id)
                    if paid is not None and paid.told == "paid":
                        return
        finally:
            market.retired.add(name)
            caller.close()
        await asyncio.sleep(0.05)
