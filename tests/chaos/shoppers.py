"""Buyers who shop over HTTP while parts die under them, and keep a record of every call.

Each is one person with one cart, who does one thing at a time and repeats a call under its key until its
outcome is known, on whichever API process answers. One whose cart may hold what it cannot know (a refusal
that followed an unknown call), or who walks away from cart or payment, is retired; somebody new comes.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from acceptance.calling import ADDRESS
from acceptance.running import token

from .history import REPEATABLE, Call, History, Line, Shortfall, Verb
from .http import Answer, Connection, NeverSent, NoAnswer

ANSWER_SECONDS = 8.0
"""Longer than an API process waits for its engine: it is the one to say that an outcome is unknown."""

PAUSE_SECONDS = (0.02, 0.15)
"""Between repetitions of a call."""

LIFE_SECONDS = 0.4
"""Without a sign of life for so long, an API process gets no calls."""

LINE_UNITS_MAX = 9


class _Hold(msgspec.Struct):
    quantity: int
    expires_at: str


class _Line(msgspec.Struct):
    sku: str
    quantity: int
    hold: _Hold | None = None


class _Order(msgspec.Struct):
    order_id: str
    status: str
    lines: list[_Line]


class _Payment(msgspec.Struct):
    id: str
    status: str
    expires_at: str


class _Body(msgspec.Struct):
    """Whatever an answer may say that the history keeps; the rest is skipped."""

    version: int | None = None
    line: _Line | None = None
    items: list[_Line] = []
    orders: list[_Order] = []
    lines: list[_Line] = []
    payment: _Payment | None = None
    payment_id: str = ""
    status: str | int = ""
    code: str = ""
    sku: str | None = None
    requested_quantity: int | None = None
    available_quantity: int | None = None
    shortfalls: list[dict[str, Any]] = []
    on_hand: int = 0
    held: int = 0
    sold: int = 0


_decode = msgspec.json.Decoder(_Body).decode


class Market:
    """What all shoppers of one period share: addresses, what is on sale, the history, the stop."""

    def __init__(
        self,
        *,
        ports: Sequence[int],
        jwt_secret: str,
        scarce: Sequence[str],
        plenty: Sequence[str],
        seed: int,
        think_seconds: float,
        name: str,
        restocks: bool,
    ) -> None:
        self.ports = ports
        self.jwt_secret = jwt_secret
        self.scarce = scarce
        self.plenty = plenty
        self.seed = seed
        self.think_seconds = think_seconds
        self.name = name
        self.restocks = restocks
        """Whether units of scarce SKUs are delivered meanwhile."""
        self.history = History()
        self.healthy: list[int] = list(range(len(ports)))
        """Places in `ports` of the processes that answer."""
        self.is_closing = False
        self.has_closed = False
        """Nobody repeats anything any more."""
        self.in_flight = 0
        self.sent = 0
        self.retired: set[str] = set()
        self.probes = 0
        self.left_unpaid: list[tuple[float, str]] = []
        """Payments that were walked away from, with the end of their window."""
        self.on_call: Callable[[Call], None] = lambda call: None

    def note(self, call: Call) -> None:
        self.history.append(call)
        self.on_call(call)


class Caller:
    """Sends requests of one person and records them."""

    def __init__(self, market: Market, name: str, headers: str, chance: random.Random) -> None:
        self.market = market
        self.name = name
        self.chance = chance
        self._headers = headers
        self._is_guest = "X-Cart-Token" in headers
        self._wires = [Connection(port, ANSWER_SECONDS) for port in market.ports]
        self._keys = 0

    def new_key(self) -> str:
        self._keys += 1
        return f"{self.name}:{self._keys}"

    def close(self) -> None:
        for wire in self._wires:
            wire.close()

    async def once(
        self,
        verb: Verb,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str = "",
        more_headers: str = "",
        **known: Any,
    ) -> Call:
        """One request; raises nothing. `known`: fields of the call that the request says."""
        market = self.market
        content = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        head = f"{method} {path} HTTP/1.1\r\nHost: shop\r\n{self._headers}{more_headers}"
        if key:
            head += f"Idempotency-Key: {key}\r\n"
        if content:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        request = head.encode() + b"\r\n" + content
        call = Call(
            buyer=self.name,
            verb=verb,
            key=key or self.new_key(),
            began=time.time(),
            ended=0,
            verdict="unknown",
            status=0,
            is_guest=self._is_guest,
            **known,
        )
        market.in_flight += 1
        market.sent += 1
        try:
            answer = await self._wires[self.chance.choice(market.healthy)].ask(request)
        except NeverSent:
            call.verdict = "failed"
        except NoAnswer:
            pass
        else:
            _take(call, answer)
        finally:
            market.in_flight -= 1
        call.ended = time.time()
        market.note(call)
        return call

    async def surely(self, verb: Verb, method: str, path: str, body: Any = None, **known: Any) -> Call | None:
        """Repeat one call under its key until it is done or refused. None: nobody knows, or nobody can."""
        key = self.new_key()
        was_unknown = False
        if verb == "checkout":
            # What the record keeps of a checkout, so that a payment there leads back to its calls.
            body = {**body, "metadata": {"key": key}}
        while True:
            call = await self.once(verb, method, path, body, key=key, **known)
            if call.verdict == "ok":
                return call
            was_unknown = was_unknown or call.verdict == "unknown"
            if 400 <= call.status < 500 and call.code not in REPEATABLE:
                return None if was_unknown else call
            if self.market.has_closed:
                return None
            await asyncio.sleep(self.chance.uniform(*PAUSE_SECONDS))


class Shopper:
    """One place in the shop: a person, and the next one when that person has left."""

    def __init__(self, market: Market, number: int) -> None:
        self._market = market
        self._number = number
        self._chance = random.Random(f"{market.seed} {number}")
        self._persons = 0
        self._cart: dict[str, int] = {}

    async def shop(self) -> None:
        """Until the market closes; who is there then looks at the cart once more."""
        while not self._market.is_closing:
            caller = await self._new_person()
            if caller is None:
                continue
            try:
                stays = await self._visit(caller)
                if stays:
                    await caller.once("read", "GET", "/v1/cart")
                else:
                    self._market.retired.add(caller.name)
            finally:
                caller.close()

    async def _new_person(self) -> Caller | None:
        self._persons += 1
        self._cart = {}
        name = f"{self._market.name}-{self._number}-{self._persons}"
        if self._chance.random() < 0.5:
            bearer = token(self._market.jwt_secret, name)
            return Caller(self._market, name, f"Authorization: Bearer {bearer}\r\n", self._chance)
        # A guest's token is asked for before: whose first change gets lost would come back as another guest.
        wire = Connection(self._chance.choice(self._market.ports), ANSWER_SECONDS)
        try:
            answer = await wire.ask(b"POST /v1/guest HTTP/1.1\r\nHost: shop\r\n\r\n")
            guest = msgspec.json.decode(answer.body)["token"]
        except (NeverSent, NoAnswer, KeyError, msgspec.DecodeError):
            await asyncio.sleep(0.1)
            return None
        finally:
            wire.close()
        return Caller(self._market, name, f"X-Cart-Token: {guest}\r\n", self._chance)

    async def _visit(self, caller: Caller) -> bool:
        """Whether the person is still there and knows the cart when the market closes."""
        chance = self._chance
        while not self._market.is_closing:
            if self._market.think_seconds:
                await asyncio.sleep(chance.expovariate(1 / self._market.think_seconds))
            what = chance.random()
            if what < 0.26 or (not self._cart and what < 0.5):
                stays = await self._add(caller)
            elif what < 0.5:
                stays = await self._change(caller)
            elif what < 0.68:
                await caller.once("read", "GET", "/v1/cart")
                stays = True
            elif what < 0.86 or not self._cart:
                sku = chance.choice([*self._market.scarce, *self._market.plenty])
                await caller.once("stock", "GET", f"/v1/stock/{sku}", sku=sku)
                stays = True
            elif what < 0.87:
                stays = False  # Leaves a cart with holds behind, which will lapse.
            else:
                stays = await self._check_out(caller)
            if not stays:
                return False
        return True

    # --- carts -------------------------------------------------------------------------------------

    async def _add(self, caller: Caller) -> bool:
        skus = self._market.scarce if self._chance.random() < 0.5 else self._market.plenty
        sku, quantity = self._chance.choice(skus), self._chance.randint(1, 3)
        if self._cart.get(sku, 0) + quantity > LINE_UNITS_MAX:
            return await self._remove(caller, sku)
        body = {"sku": sku, "quantity": quantity}
        call = await caller.surely("add", "POST", "/v1/cart/items", body, sku=sku, quantity=quantity)
        return self._learn(call)

    async def _change(self, caller: Caller) -> bool:
        sku = self._chance.choice(list(self._cart))
        if self._chance.random() < 0.6:
            return await self._remove(caller, sku)
        quantity = self._chance.randint(1, LINE_UNITS_MAX)
        body = {"quantity": quantity}
        call = await caller.surely("set", "PATCH", f"/v1/cart/items/{sku}", body, sku=sku, quantity=quantity)
        return self._learn(call)

    async def _remove(self, caller: Caller, sku: str) -> bool:
        return self._learn(await caller.surely("remove", "DELETE", f"/v1/cart/items/{sku}", sku=sku))

    def _learn(self, call: Call | None) -> bool:
        """Whether the cart is still known."""
        if call is None:
            return False
        if call.code == "ITEM_NOT_FOUND":
            self._cart.pop(call.sku, None)
        elif call.verdict == "ok":
            quantity = call.lines[0].quantity if call.lines else 0
            self._cart[call.sku] = quantity
            if quantity == 0:
                del self._cart[call.sku]
        return True

    # --- money -------------------------------------------------------------------------------------

    async def _check_out(self, caller: Caller) -> bool:
        chance = self._chance
        lines = chance.sample(list(self._cart), k=chance.randint(1, len(self._cart)))
        begun = await caller.surely("checkout", "POST", "/v1/checkout", checkout_of(lines))
        if begun is None:
            return False
        if begun.verdict == "failed":
            # Sold out meanwhile, or gone with an engine that lost it: what stood in the way goes.
            for sku in {shortfall.sku for shortfall in begun.shortfalls} or set(lines):
                if sku in self._cart and not await self._remove(caller, sku):
                    return False
            return True
        for line in begun.lines:
            self._cart.pop(line.sku, None)
        return await self._decide(caller, begun)

    async def _decide(self, caller: Caller, begun: Call) -> bool:
        """Pay, in one of the ways in which money arrives, or do not."""
        chance, payment_id = self._chance, begun.payment_id
        what = chance.random()
        is_scarce = any(line.sku in self._market.scarce for line in begun.lines)
        if what < 0.05:
            self._market.left_unpaid.append((begun.expires_at, payment_id))
            return False
        if what < 0.15:
            await caller.surely(
                "fail",
                "POST",
                f"/v1/payments/{payment_id}/simulate",
                {"outcome": "fail"},
                payment_id=payment_id,
            )
        if what < (0.75 if is_scarce else 0.35):
            return await self._cancel(caller, begun)
        if chance.random() < 0.5:
            call = await pay(caller, payment_id)
            return call is not None and call.told == "paid"
        call = await notify(caller, payment_id)
        if call is not None and chance.random() < 0.3:
            call = await notify(caller, payment_id)
        return call is not None and call.verdict == "ok" and time.time() < begun.expires_at

    async def _cancel(self, caller: Caller, begun: Call) -> bool:
        # The order's id is the payment's with a number; the caller was told both.
        order_id = begun.told
        call = await caller.surely(
            "cancel", "POST", f"/v1/orders/{order_id}/cancel", payment_id=begun.payment_id
        )
        if call is None or call.told != "released" or call.ended > begun.expires_at:
            return False
        for line in begun.lines:
            self._cart[line.sku] = self._cart.get(line.sku, 0) + line.quantity
        return True


def checkout_of(lines: Sequence[str]) -> dict[str, Any]:
    """The body of a checkout."""
    return {
        "line_ids": lines,
        "payment_method": "card",
        "gateway": "simulated",
        "shipping_address": ADDRESS,
    }


async def pay(caller: Caller, payment_id: str) -> Call | None:
    path = f"/v1/payments/{payment_id}/simulate"
    return await caller.surely("settle", "POST", path, {"outcome": "succeed"}, payment_id=payment_id)


async def notify(caller: Caller, payment_id: str) -> Call | None:
    """The gateway's callback."""
    body = msgspec.json.encode({"payment_id": payment_id, "outcome": "succeed"})
    signature = hmac.new(caller.market.jwt_secret.encode(), body, hashlib.sha256).hexdigest()
    return await caller.surely(
        "callback",
        "POST",
        "/v1/webhooks/simulated",
        body,
        more_headers=f"X-Simulated-Signature: {signature}\r\n",
        payment_id=payment_id,
    )


async def pay_late(market: Market) -> None:
    """Of every other payment that somebody walked away from, the gateway tells after its window is over."""
    caller = Caller(market, f"{market.name}-gateway", "", random.Random(market.seed))
    try:
        while not market.is_closing:
            await asyncio.sleep(0.2)
            while market.left_unpaid and market.left_unpaid[0][0] + 0.5 < time.time():
                _, payment_id = market.left_unpaid.pop(0)
                if caller.chance.random() < 0.5:
                    await notify(caller, payment_id)
    finally:
        caller.close()


async def look_after(market: Market) -> None:
    """What a load balancer does: who gives no sign of life gets no more calls until it does."""
    wires = [Connection(port, LIFE_SECONDS) for port in market.ports]

    async def is_alive(wire: Connection) -> bool:
        try:
            return (await wire.ask(b"GET /health/live HTTP/1.1\r\nHost: shop\r\n\r\n")).status == 200
        except (NeverSent, NoAnswer):
            return False

    try:
        while not market.is_closing:
            alive = await asyncio.gather(*map(is_alive, wires))
            market.healthy = [place for place, answers in enumerate(alive) if answers] or [*range(len(wires))]
            await asyncio.sleep(LIFE_SECONDS / 4)
    finally:
        for wire in wires:
            wire.close()


async def restock(market: Market) -> None:
    """Deliver some units of a scarce SKU now and then."""
    bearer = token(market.jwt_secret, "clerk", "admin")
    name = f"{market.name}-clerk"
    caller = Caller(market, name, f"Authorization: Bearer {bearer}\r\n", random.Random(market.seed + 1))
    try:
        while not market.is_closing:
            await asyncio.sleep(caller.chance.uniform(0.2, 0.8))
            sku, units = caller.chance.choice(market.scarce), caller.chance.randint(1, 4)
            reference = caller.new_key()
            body = {"delta": units, "reason": "delivery", "reference": reference}
            path = f"/v1/admin/stock/{sku}/adjust"
            await caller.surely("restock", "POST", path, body, sku=sku, quantity=units, reference=reference)
    finally:
        caller.close()


def _take(call: Call, answer: Answer) -> None:
    """Put what an answer says into its call."""
    call.status = answer.status
    call.is_replay = answer.is_replay
    if 200 <= answer.status < 300:
        call.verdict = "ok"
    elif 400 <= answer.status < 500 or answer.status == 503:
        call.verdict = "failed"
    try:
        body = _decode(answer.body)
    except msgspec.DecodeError:
        call.code = repr(answer.body[:200])
        return
    call.code = body.code
    call.version = body.version
    if call.verdict == "ok":
        _take_success(call, body)
    elif body.code in ("INSUFFICIENT_STOCK", "CHECKOUT_VALIDATION_FAILED"):
        entries = body.shortfalls or [msgspec.structs.asdict(body)]
        call.shortfalls = tuple(
            Shortfall(entry["sku"], entry["available_quantity"], entry["requested_quantity"])
            for entry in entries
            if entry.get("available_quantity") is not None and entry.get("sku") is not None
        )


def _take_success(call: Call, body: _Body) -> None:
    if call.verb == "read":
        call.lines = tuple(map(_line, body.items))
    elif call.verb == "stock":
        call.stock = (body.on_hand, body.held, body.sold)
    elif call.verb == "checkout":
        assert body.payment is not None
        call.payment_id, call.expires_at = body.payment.id, _seconds(body.payment.expires_at)
        call.lines = tuple(_line(line) for order in body.orders for line in order.lines)
        call.told = body.orders[0].order_id
    elif call.verb in ("settle", "cancel", "fail"):
        call.told = str(body.status)
    elif body.line is not None:
        call.lines = (_line(body.line),)


def _line(line: _Line) -> Line:
    if line.hold is None:
        return Line(line.sku, line.quantity)
    return Line(line.sku, line.quantity, line.hold.quantity, _seconds(line.hold.expires_at))


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
