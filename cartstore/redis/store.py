"""RedisEngine: one method per script. Owns the packing of arguments and the AGAIN loop; what a reply means
is in replies.py and outcomes.py, how it travels in caller.py."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache, partial
from typing import Any, Literal

import msgspec

from cartstore import limits
from cartstore.errors import (
    CartEmpty,
    ContractError,
    InsufficientStock,
    InvalidQuantity,
    ItemNotFound,
    NotYetOnSale,
    OutcomeUnknown,
    PaymentNotFound,
    ProductInactive,
    ProductNotFound,
    PurchaseLimitReached,
    StoreFull,
    StoreUnavailable,
    VersionConflict,
    WritesRefused,
)
from cartstore.model import (
    NO_GUARD,
    Beat,
    Beats,
    Cart,
    CartResult,
    CartTerms,
    Checkout,
    CheckoutRequest,
    Guard,
    HoldResult,
    ItemOutcome,
    LineResult,
    Order,
    Partition,
    Payment,
    PaymentResult,
    Position,
    PutItem,
    PutItemByLine,
    PutResult,
    ReleaseReason,
    SkuFields,
    StockLevel,
    StockResult,
    Summary,
    line_id_of,
    payment_id_of_order,
    sku_of,
)
from cartstore.redis.caller import ScriptCaller
from cartstore.redis.keys import Keys
from cartstore.redis.outcomes import DUE, OWNER_DUE, RETRIED, SUCCESSES, combined, refusal
from cartstore.redis.replies import (
    STOCK_FIELDS,
    order_fields,
    payment_fields,
    read_cart,
    read_change,
    read_checkout,
    read_level,
    read_line,
    read_replayed,
    read_summary,
    unreadable_checkout,
)
from cartstore.redis.scripts import Script, script
from cartstore.stored_json import note_unreadable

_STOCK_BATCH = 200
"""SKUs that one stock_read call looks at."""

_PUBLISH_BATCH = 200
"""sku_publish calls under way at once."""

_OF_A_LINE = (
    *(InsufficientStock, InvalidQuantity, NotYetOnSale, PurchaseLimitReached),
    *(ProductInactive, ProductNotFound, ItemNotFound),
)
"""Refusals that tell which line they are about."""

Arg = str | int


def _conditions(guard: Guard) -> tuple[Arg, Arg, Arg]:
    """if_match, idempotency key and fingerprint, as every mutation takes them."""
    if_match = "" if guard.if_match is None else guard.if_match
    return if_match, guard.idempotency_key or "", guard.fingerprint


@lru_cache(64)
def packed_terms(terms: CartTerms) -> str:
    """The terms as scripts read them (terms_decode.lua)."""
    return (
        f"{terms.hold_ttl_ms} {terms.hold_cap_ms} {terms.cart_ttl_ms} {terms.quantity_max} {terms.lines_max} "
        f"{terms.items_max} {terms.held_max} {terms.guest_share_ppm} {int(terms.reservations)} "
        f"{terms.hold_rest_ms}"
    )


def packed_sku(sku: SkuFields) -> str:
    """A SKU's catalog fields as scripts read them (sku_load.lua)."""
    fields = (
        f"{sku.revision} {sku.price_minor} {sku.currency} {int(sku.is_active)} {sku.policy} "
        f"{sku.hold_policy} {sku.hold_ttl_ms} {sku.min_quantity} {sku.max_quantity} {sku.multiple_of} "
        f"{sku.terms_revision}"
        + (f" starts={sku.starts_at_ms}" if sku.starts_at_ms else "")
        + (f" limit={sku.limit_units}/{sku.limit_window_ms}" if sku.limit_units else "")
    )
    if sku.sale_price_minor is not None:
        fields += f" sale={sku.sale_price_minor}/{sku.sale_from_ms}/{sku.sale_to_ms}"
    return fields


class RedisEngine:
    """One partition on Redis or Valkey; fulfils `cartstore.engine.CartEngine`.

    `now_ms` overrides the engine's clock, for tests. `outbox_events_max`: at this length of the outbox new
    checkouts are refused with StoreFull. `unpaid_kept_ms`: so long after its checkout a released payment is
    not paid any more, its money is owed back, because the record no longer knows where to send the goods;
    0: never.
    """

    def __init__(
        self,
        caller: ScriptCaller,
        partition: Partition,
        *,
        now_ms: Callable[[], int] | None = None,
        releases_per_call: int = limits.RELEASES_PER_CALL,
        outbox_events_max: int = limits.OUTBOX_EVENTS_MAX,
        unpaid_kept_ms: int = 0,
    ) -> None:
        self.caller = caller
        self.partition = partition
        self.keys = Keys(partition)
        self._now_ms = now_ms
        self._releases_per_call = releases_per_call
        self._outbox_events_max = outbox_events_max
        self._unpaid_kept_ms = unpaid_kept_ms
        # A nonce tells two histories apart that issued the same sequence number; a random part per engine
        # object and a counter are as unique as random bytes per call, and cheaper.
        self._nonce_prefix = secrets.token_hex(8)
        self._calls = itertools.count()
        self._releases: dict[str, asyncio.Future[Any]] = {}

    async def call(self, script: Script, keys: Sequence[str], *args: Arg) -> Any:
        """One script call with what every script takes; follows AGAIN. Raises for every refusal."""
        reply = await self.caller.call(script, keys, (*self._stamp(), *args))
        if reply[0] in SUCCESSES:
            return reply
        return await self._follow(reply, script, keys, lambda _: (*self._stamp(), *args))

    def _stamp(self) -> tuple[Arg, Arg]:
        """Time and nonce, as every script takes them."""
        return self._now(), f"{self._nonce_prefix}{next(self._calls):x}"

    def _now(self) -> Arg:
        return "" if self._now_ms is None else self._now_ms()

    async def _follow(
        self,
        reply: Any,
        script: Script,
        keys: Sequence[str],
        args_of: Callable[[bool], Sequence[Arg]],
    ) -> Any:
        """What comes after a reply that is no success: the refusal that it stands for, or more calls.

        `args_of`: the arguments of the next call; asked whether the script, if it knows how, is to go on
        before all that is due is released.
        """
        for round_number in range(limits.RELEASE_ROUNDS_MAX):
            tag = reply[0]
            if tag in SUCCESSES:
                return reply
            if tag not in RETRIED:
                raise refusal(reply)
            try:
                if tag == DUE:
                    await self._release(reply[1])
                elif tag == OWNER_DUE and not await self._release_owner(keys[1]):
                    raise refusal(("LIMIT_EXCEEDED", *reply[1:]))
            except OutcomeUnknown as error:
                # What was released is unknown; of what was asked for nothing was done, as its answer said.
                raise StoreUnavailable("The engine gave no answer; the change was not applied.") from error
            is_hurried = round_number + 1 >= limits.EXACT_ROUNDS
            reply = await self.caller.call(script, keys, args_of(is_hurried))
        # The truth was not reached in time; "sold out" would be a guess.
        raise StoreUnavailable("Too many holds fall due at once; the change was not applied.")

    async def _release(self, sku: str) -> None:
        """Release due holds of a SKU, in steps, until none is left or so many that an add need not wait.

        All who want that at the same time wait for the same steps: a crowd that wants a SKU whose holds fall
        due at once would else keep the engine from everybody else, by its releases or by its questions."""
        release = self._releases.get(sku)
        if release is None:
            release = asyncio.ensure_future(self._release_in_steps(sku))
            self._releases[sku] = release
            release.add_done_callback(partial(self._release_ended, sku))
        # Shielded: one caller's cancellation is not the others'.
        await asyncio.shield(release)

    async def _release_in_steps(self, sku: str) -> None:
        keys, limit = (self.keys.gate, self.keys.sku(sku)), limits.RELEASES_PER_STEP
        for _ in range(limits.RELEASE_STEPS):
            _, looked = await self.call(script("hold_release"), keys, limit)
            if looked < limit:
                break

    def _release_ended(self, sku: str, release: asyncio.Future[Any]) -> None:
        self._releases.pop(sku, None)
        if not release.cancelled():
            release.exception()  # Read, so that nobody complains of it when all who waited are gone.

    async def _release_owner(self, cart_key: str) -> int:
        return int((await self.call(script("hold_release_owner"), (self.keys.gate, cart_key)))[1])

    # --- catalog and stock ---------------------------------------------------------------------

    async def publish_skus(self, skus: Sequence[SkuFields]) -> None:
        for start in range(0, len(skus), _PUBLISH_BATCH):
            await asyncio.gather(*(self._publish(sku) for sku in skus[start : start + _PUBLISH_BATCH]))

    async def _publish(self, sku: SkuFields) -> None:
        keys = (self.keys.gate, self.keys.sku(sku.sku))
        await self.call(
            script("sku_publish"), keys, sku.revision, packed_sku(sku), sku.seller, sku.product_id
        )

    async def freeze_skus(self, skus: Sequence[str], *, frozen: bool) -> None:
        """Stop the sale of these SKUs, or let it go on. Doing it again changes nothing."""
        for sku in skus:
            await self.call(script("sku_freeze"), (self.keys.gate, self.keys.sku(sku)), int(frozen))

    async def adjust_stock(
        self, sku: str, *, delta: int, reason: str, reference: str, fingerprint: str
    ) -> StockResult:
        return await self._adjust(sku, "by", delta, "", reason, reference, fingerprint)

    async def set_stock(
        self,
        sku: str,
        *,
        on_hand: int,
        expected_on_hand: int | None,
        reason: str,
        reference: str,
        fingerprint: str,
    ) -> StockResult:
        expected = "" if expected_on_hand is None else expected_on_hand
        return await self._adjust(sku, "to", on_hand, expected, reason, reference, fingerprint)

    async def _adjust(
        self,
        sku: str,
        how: Literal["by", "to"],
        amount: int,
        expected: Arg,
        reason: str,
        reference: str,
        fingerprint: str,
    ) -> StockResult:
        keys = (self.keys.gate, self.keys.sku(sku), self.keys.reference(sku, reference))
        reply = await self.call(
            script("stock_adjust"),
            keys,
            how,
            amount,
            expected,
            reason,
            reference,
            fingerprint,
            self._releases_per_call,
        )
        level = read_level(reply, 3)
        assert level is not None, "stock_adjust answers OK only for a known SKU"
        return StockResult(
            level=level,
            delta=int(reply[1]),
            position=Position.parse(reply[2]),
            replayed=reply[0] == "REPLAYED",
        )

    async def read_stock(self, skus: Sequence[str]) -> list[StockLevel | None]:
        levels: list[StockLevel | None] = []
        for start in range(0, len(skus), _STOCK_BATCH):
            reply = await self.call(
                script("stock_read"),
                (self.keys.gate,),
                self._releases_per_call,
                *skus[start : start + _STOCK_BATCH],
            )
            levels.extend(read_level(reply, place) for place in range(1, len(reply), STOCK_FIELDS))
        return levels

    # --- cart ----------------------------------------------------------------------------------

    async def read_cart(self, cart_id: str, *, terms: CartTerms | None = None) -> Cart:
        keys = (self.keys.gate, self.keys.cart(cart_id))
        packed = packed_terms(terms) if terms is not None else ""
        return read_cart(cart_id, await self.call(script("cart_read"), keys, self._releases_per_call, packed))

    async def read_summary(self, cart_id: str) -> Summary:
        keys = (self.keys.gate, self.keys.cart(cart_id))
        return read_summary(await self.call(script("cart_read_summary"), keys), 1)

    async def _mutate(
        self, name: str, keys: Sequence[str], terms: CartTerms, guard: Guard, *args: Arg
    ) -> Any:
        """A cart mutation; the reply without its REPLAYED mark, and whether it had one."""
        reply = await self.call(
            script(name), (self.keys.gate, *keys), packed_terms(terms), *_conditions(guard), *args
        )
        return (read_replayed(reply[1:], 3), True) if reply[0] == "REPLAYED" else (reply, False)

    async def _mutate_line(
        self,
        script: Script,
        keys: Sequence[str],
        terms: CartTerms,
        guard: Guard,
        line_id: str,
        quantity: int,
        properties_json: str | None = None,
    ) -> LineResult:
        """A mutation of one line; a refusal says which line, SKU and quantity it is about."""
        args: Sequence[Arg] = packed_terms(terms), line_id, quantity
        if guard is not NO_GUARD or properties_json or self._now_ms is not None:
            # Of nearly every call there is nothing more to say.
            args = self._line_args(terms, guard, line_id, quantity, properties_json)
        is_replay = False
        try:
            reply = await self.caller.call(script, keys, args)
        except (StoreFull, WritesRefused):
            if not guard.idempotency_key or script.plain is script:
                raise
            # A function is refused before it begins, a script where it writes; a repetition writes nothing.
            reply = await self.caller.call(script.plain, keys, args)
        if reply[0] != "OK":
            try:
                # A crowd is refused as often as it is served, and mostly at once.
                if reply[0] not in RETRIED and reply[0] not in SUCCESSES:
                    raise refusal(reply)
                again = partial(self._line_args, terms, guard, line_id, quantity, properties_json)
                reply = await self._follow(reply, script, keys, again)
            except _OF_A_LINE as error:
                error.line_id, error.sku = line_id, sku_of(line_id)
                if error.requested_quantity is None:
                    error.requested_quantity = quantity
                raise
            if reply[0] == "REPLAYED":
                is_replay, reply = True, read_replayed(reply[1:], 3)
        if len(reply) <= 3:
            return read_change(reply[1], line_id, reply[2] if len(reply) == 3 else 0)
        return LineResult(
            line=read_line(reply, 8) if len(reply) > 8 else None,
            summary=read_summary(reply, 3),
            read_at_ms=reply[2],
            created=reply[1] == 1,
            replayed=is_replay,
        )

    def _line_args(
        self,
        terms: CartTerms,
        guard: Guard,
        line_id: str,
        quantity: int,
        properties_json: str | None,
        hurried: bool = False,
    ) -> Sequence[Arg]:
        rest = "1" if hurried else "", *_conditions(guard), properties_json or "", *self._stamp()
        return packed_terms(terms), line_id, quantity, *rest

    def add_line(
        self,
        cart_id: str,
        sku: str,
        quantity: int,
        *,
        properties_json: str | None,
        terms: CartTerms,
        guard: Guard,
    ) -> Coroutine[Any, Any, LineResult]:
        return self._mutate_line(
            script("cart_add_line"),
            (self.keys.gate, self.keys.cart(cart_id), self.keys.sku(sku)),
            terms,
            guard,
            line_id_of(sku, properties_json),
            quantity,
            properties_json,
        )

    def set_quantity(
        self, cart_id: str, line_id: str, quantity: int, *, terms: CartTerms, guard: Guard
    ) -> Coroutine[Any, Any, LineResult]:
        return self._mutate_line(
            script("cart_set_quantity"),
            (self.keys.gate, self.keys.cart(cart_id), self.keys.sku(sku_of(line_id))),
            terms,
            guard,
            line_id,
            quantity,
        )

    def remove_line(
        self, cart_id: str, line_id: str, *, terms: CartTerms, guard: Guard
    ) -> Coroutine[Any, Any, LineResult]:
        return self.set_quantity(cart_id, line_id, 0, terms=terms, guard=guard)

    async def clear_cart(self, cart_id: str, *, terms: CartTerms, guard: Guard) -> CartResult:
        reply, replayed = await self._mutate("cart_clear", (self.keys.cart(cart_id),), terms, guard)
        return CartResult(summary=read_summary(reply, 3), replayed=replayed)

    async def put_lines(
        self,
        cart_id: str,
        items: Sequence[PutItem | PutItemByLine],
        *,
        mode: Literal["all", "partial"],
        terms: CartTerms,
        guard: Guard,
    ) -> PutResult:
        args: list[Arg] = [mode, self._releases_per_call]
        for item in items:
            if isinstance(item, PutItem):
                args += [item.line_id, item.quantity, "new", item.properties_json or ""]
            else:
                args += [item.line_id, item.quantity, "known", ""]
        reply, replayed = await self._mutate(
            "cart_put_lines", (self.keys.cart(cart_id),), terms, guard, *args
        )
        wanted = {item.line_id: item.quantity for item in items}
        start = 1 if reply[0] == "REFUSED" else 8
        outcomes = tuple(
            ItemOutcome(
                line_id=reply[place],
                sku=sku_of(reply[place]),
                code=reply[place + 1],
                requested_quantity=wanted.get(reply[place], 0),
                available_quantity=int(reply[place + 2]) if reply[place + 2] != "" else None,
            )
            for place in range(start, len(reply), 3)
        )
        if reply[0] == "REFUSED":
            raise combined([msgspec.structs.asdict(outcome) for outcome in outcomes])
        return PutResult(outcomes=outcomes, summary=read_summary(reply, 3), replayed=replayed)

    async def accept_changes(
        self, cart_id: str, line_ids: Sequence[str] | None, *, terms: CartTerms, guard: Guard
    ) -> CartResult:
        if line_ids is not None and not line_ids:
            return CartResult(summary=await self.read_summary(cart_id))
        reply, replayed = await self._mutate(
            "cart_accept_changes", (self.keys.cart(cart_id),), terms, guard, *(line_ids or ())
        )
        return CartResult(summary=read_summary(reply, 3), replayed=replayed)

    async def hold_lines(
        self,
        cart_id: str,
        line_ids: Sequence[str] | None,
        *,
        terms: CartTerms,
        extend: bool,
        guard: Guard,
    ) -> HoldResult:
        if line_ids is not None and not line_ids:
            cart = await self.read_cart(cart_id, terms=terms)
            if guard.if_match is not None and guard.if_match != cart.summary.version:
                raise VersionConflict(cart.summary.version)
            return HoldResult(summary=cart.summary, cart=cart)
        reply, replayed = await self._mutate(
            "hold_extend",
            (self.keys.cart(cart_id),),
            terms,
            guard,
            int(extend),
            self._releases_per_call,
            *(line_ids or ()),
        )
        cart = await self.read_cart(cart_id, terms=terms)
        return HoldResult(summary=read_summary(reply, 3), cart=cart, replayed=replayed)

    # --- checkout and payment ------------------------------------------------------------------

    async def begin_checkout(
        self,
        cart_id: str,
        checkout_id: str,
        payment_id: str,
        request: CheckoutRequest,
        *,
        fingerprint: str,
        window_ms: int,
        terms: CartTerms,
        if_match: int | None,
        other_payment_id: str | None = None,
        record_was_asked: bool = True,
    ) -> Checkout:
        if request.line_ids is not None and not request.line_ids:
            raise CartEmpty()
        reply = await self.call(
            script("checkout_begin"),
            (
                *(self.keys.gate, self.keys.cart(cart_id), self.keys.payment(payment_id), self.keys.outbox),
                self.keys.payment(other_payment_id or payment_id),
            ),
            packed_terms(terms),
            "" if if_match is None else if_match,
            checkout_id,
            fingerprint,
            window_ms,
            "" if request.expected_total_minor is None else request.expected_total_minor,
            request.gateway,
            request.payment_method,
            request.details_json,
            self._outbox_events_max,
            self._releases_per_call,
            int(record_was_asked),
            "?" if request.identities is None else " ".join(request.identities),
            *(request.line_ids or ()),
        )
        if reply[0] == "REFUSED":
            raise await self._checkout_refused(cart_id, reply)
        return read_checkout(reply)

    async def _checkout_refused(self, cart_id: str, reply: Sequence[str]) -> Exception:
        problems: list[dict[str, Any]] = []
        for place in range(1, len(reply), 6):
            line_id, code, available, quantity, old_price, new_price = reply[place : place + 6]
            problems.append(
                {
                    "line_id": line_id,
                    "sku": sku_of(line_id),
                    "code": code,
                    "requested_quantity": int(quantity),
                    "available_quantity": int(available) if available != "" else None,
                    "old_price_minor": int(old_price),
                    "new_price_minor": int(new_price),
                }
            )
        return combined(problems)

    async def _payment(self, name: str, payment_id: str, *args: Arg) -> PaymentResult:
        reply = await self.call(script(name), (self.keys.gate, self.keys.payment(payment_id)), *args)
        return self._payment_result(reply)

    @staticmethod
    def _payment_result(reply: Any) -> PaymentResult:
        checkout = read_checkout(reply)
        return PaymentResult(
            payment=checkout.payment,
            orders=checkout.orders,
            read_at_ms=checkout.read_at_ms,
            changed=reply[0] == "OK",
            position=checkout.position,
        )

    async def read_payment(self, payment_id: str) -> Checkout | None:
        try:
            reply = await self.call(script("payment_read"), (self.keys.gate, self.keys.payment(payment_id)))
        except PaymentNotFound:
            return None
        return read_checkout(reply)

    async def list_payments(self, cart_id: str) -> list[Checkout]:
        reply = await self.call(script("payment_list"), (self.keys.gate, self.keys.orders(cart_id)))
        found = await asyncio.gather(*(self._listed(cart_id, payment_id) for payment_id in reply[1:]))
        return [checkout for checkout in found if checkout is not None]

    async def _listed(self, cart_id: str, payment_id: str) -> Checkout | None:
        """As `read_payment`; one that cannot be read is told as such, and does not keep others from being."""
        try:
            return await self.read_payment(payment_id)
        except (ContractError, KeyError, ValueError, TypeError, IndexError) as error:
            note_unreadable("payment", payment_id, "hash", error)
            return unreadable_checkout(cart_id, payment_id)

    async def settle_payment(self, payment_id: str) -> PaymentResult:
        return await self._payment(
            "payment_settle", payment_id, self._releases_per_call, self._unpaid_kept_ms
        )

    async def fail_payment(self, payment_id: str) -> PaymentResult:
        return await self._payment("payment_fail", payment_id)

    async def release_payment(self, payment_id: str, reason: ReleaseReason) -> PaymentResult:
        return await self._payment("order_release", payment_id, reason)

    async def close_refund(self, order_id: str) -> PaymentResult:
        payment_id = payment_id_of_order(order_id)
        keys = (self.keys.gate, self.keys.payment(payment_id), self.keys.order(order_id))
        return self._payment_result(await self.call(script("order_refund"), keys))

    async def restore_payment(
        self, payment: Payment, orders: Sequence[Order], *, identities: Sequence[str] = ()
    ) -> None:
        cart_ttl_ms = limits.TOMBSTONE_MS
        fields = payment_fields(payment, cart_ttl_ms)
        if identities:
            fields += ["buyer", " ".join((payment.cart_id, *identities))]
        await self.call(
            script("payment_restore"),
            (self.keys.gate, self.keys.payment(payment.payment_id)),
            msgspec.json.encode(fields).decode(),
            limits.TOMBSTONE_MS,
            *(msgspec.json.encode(order_fields(order)).decode() for order in orders),
        )

    # --- sweeping ------------------------------------------------------------------------------

    async def release_due_holds(self, limit: int) -> int:
        released = 0
        # An entry whose hold was extended is moved, not released: a step may release less than it looked at.
        while released < limit:
            step = min(limit - released, limits.RELEASES_PER_STEP)
            _, looked, more, gone = await self.call(script("hold_release_due"), (self.keys.gate,), step)
            released += gone
            if looked == 0 or more == 0:
                break
        return released

    async def release_due_payments(self, limit: int) -> int:
        released = 0
        while released < limit:
            step = min(limit - released, self._releases_per_call)
            reply = await self.call(script("payment_release_due"), (self.keys.gate,), step)
            released += int(reply[1])
            if int(reply[1]) < step:
                break
        return released

    # --- processes -----------------------------------------------------------------------------

    async def beat(self, process: str, state: str) -> Beats:
        _, now_ms, *parts = await self.call(
            script("process_beat"),
            (self.keys.gate, self.keys.beats),
            process,
            state,
            limits.BEAT_KEPT_MS,
            limits.BEAT_PROCESSES_MAX,
        )
        beats = tuple(
            Beat(process=its, at_ms=int(at_ms), count=int(count), state=said)
            for its, at_ms, count, said in zip(*[iter(parts)] * 4, strict=True)
        )
        return Beats(now_ms=int(now_ms), beats=beats)
