"""What reconcile asks of the engine (`recovery.audits.AuditedEngine`). Owns scans, audits and the repairs
that a single script can prove to be safe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cartstore.model import Partition, Payment, PaymentStatus, Position, payment_id_of_order
from cartstore.recovery.audits import (
    AUDITED_HOLDS_MAX,
    CartAudit,
    CartTotals,
    HoldClaim,
    PaymentAudit,
    SkuAbsence,
    SkuAudit,
)
from cartstore.recovery.counters import Claim, Counted, CounterAudit
from cartstore.recovery.snapshots import CartDump, GoneCarts
from cartstore.redis.caller import ScriptCaller, translate
from cartstore.redis.facts import EngineFacts, read_facts
from cartstore.redis.gate import read_gate
from cartstore.redis.replies import STOCK_FIELDS, payment_fields, read_level, read_snapshot
from cartstore.redis.scripts import script
from cartstore.redis.store import RedisEngine

_LATER_EVENTS_MAX = 500
"""Events after a look at the record among which one about the same payment is looked for."""


def _rows(reply: list[str], start: int, width: int) -> list[list[str]]:
    return [reply[place : place + width] for place in range(start, len(reply), width)]


def _claim(holder: str, line_id: str, sku: str, units: str, expires: str) -> HoldClaim:
    return HoldClaim(holder=holder, line_id=line_id, sku=sku, units=int(units), expires_at_ms=int(expires))


class AuditedRedisEngine(RedisEngine):
    """A RedisEngine that can also be looked at. `client` decodes responses."""

    def __init__(self, caller: ScriptCaller, partition: Partition, client: Redis, **options: Any) -> None:
        super().__init__(caller, partition, **options)
        self._client = client

    async def facts(self) -> EngineFacts:
        """What the engine says of itself. Raises StoreUnavailable."""
        return await read_facts(self._client)

    async def scan_skus(self, cursor: int, count: int) -> tuple[int, list[str]]:
        return await self._scan(self.keys.sku(""), cursor, count)

    async def scan_carts(self, cursor: int, count: int) -> tuple[int, list[str]]:
        return await self._scan(self.keys.cart(""), cursor, count)

    async def scan_orders(self, cursor: int, count: int) -> tuple[int, list[str]]:
        return await self._scan(self.keys.order(""), cursor, count)

    async def scan_due(self, cursor: int, count: int) -> tuple[int, list[str]]:
        return await self._scan_index(self.keys.due, cursor, count)

    async def scan_holding(self, cursor: int, count: int) -> tuple[int, list[str]]:
        return await self._scan_index(self.keys.holding, cursor, count)

    async def scan_pending(self, cursor: int, count: int) -> tuple[int, list[str]]:
        # Terminal ones stay for a day: they are many, and their end is told by no index.
        following, payment_ids = await self._scan(self.keys.payment(""), cursor, count)
        pipeline = self._client.pipeline(transaction=False)
        for payment_id in payment_ids:
            pipeline.hget(self.keys.payment(payment_id), "status")
        try:
            # What is no hash at all answers with an error, and is for the audit to tell.
            statuses = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error
        ended = set(get_args(PaymentStatus)) - {"pending"}
        return following, [
            its for its, status in zip(payment_ids, statuses, strict=True) if status not in ended
        ]

    async def _scan_index(self, key: str, cursor: int, count: int) -> tuple[int, list[str]]:
        try:
            following, members = await self._client.zscan(key, cursor, count=count)
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error
        return int(following), [member for member, _ in cast(Any, members)]

    async def _scan(self, prefix: str, cursor: int, count: int) -> tuple[int, list[str]]:
        # The tag's braces mean nothing to MATCH, and an id holds none of its other signs.
        try:
            following, keys = await self._client.scan(cursor, match=f"{prefix}*", count=count)
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error
        return int(following), [key.removeprefix(prefix) for key in cast(Any, keys)]

    async def audit_sku(self, sku: str) -> SkuAudit | SkuAbsence:
        reply = await self.call(script("sku_audit"), (self.keys.gate, self.keys.sku(sku)), AUDITED_HOLDS_MAX)
        if reply[0] == "NOTHING":
            return SkuAbsence(
                sku=sku,
                position=Position(int(reply[1]), int(reply[2])),
                holds=int(reply[3]),
                is_frozen=reply[4] == "1",
            )
        level = read_level(reply, 1)
        assert level is not None, "sku_audit answers OK only for a known SKU"
        rest = reply[1 + STOCK_FIELDS :]
        return SkuAudit(
            sku=level.sku,
            policy=level.policy,
            on_hand=level.on_hand,
            held=level.held,
            sold=level.sold,
            backordered=level.backordered,
            rev=int(rest[0]),
            revision=int(rest[1]),
            position=Position(int(rest[2]), int(rest[3])),
            recorded_held=int(rest[4]),
            earliest_ms=int(rest[5]),
            holding_ms=int(rest[6]),
            is_whole=rest[7] == "1",
            guest_held=int(rest[8]),
            recorded_guest_held=int(rest[9]),
            epoch=int(rest[10]),
            is_frozen=rest[11] == "1",
            orphans=tuple(rest[12:]),
        )

    async def audit_cart(self, cart_id: str) -> CartAudit | None:
        reply = await self.call(script("cart_audit"), (self.keys.gate, self.keys.cart(cart_id)))
        if reply[0] == "NOTHING":
            return None
        running, counted = (
            CartTotals(
                lines=int(lines),
                items=int(items),
                subtotal_minor=int(subtotal),
                held=int(held),
                waiting=int(waiting),
                miscounted_periods=int(miscounted),
            )
            for lines, items, subtotal, held, waiting, miscounted in (
                (*reply[1:6], reply[11]),
                (*reply[6:11], 0),
            )
        )
        return CartAudit(
            cart_id=cart_id,
            running=running,
            counted=counted,
            unindexed=tuple(_claim(cart_id, *row) for row in _rows(reply, 12, 4)),
        )

    async def audit_payment(self, payment_id: str) -> PaymentAudit | None:
        reply = await self.call(script("payment_audit"), (self.keys.gate, self.keys.payment(payment_id)))
        if reply[0] == "NOTHING":
            return None
        return PaymentAudit(
            payment_id=payment_id,
            status=cast(Any, reply[1]),
            expires_at_ms=int(reply[2]),
            due_ms=int(reply[3]),
            position=Position.parse(reply[4]),
            unindexed=tuple(_claim(row[4], *row[:4]) for row in _rows(reply, 5, 5)),
        )

    async def dump_carts(self, after: int, limit: int) -> CartDump:
        """Carts that changed after a change number, oldest change first."""
        reply = await self.call(script("cart_dump"), (self.keys.gate, self.keys.activity), after, limit)
        carts, gone = [], []
        for place in range(4, len(reply), 3):
            snapshot = read_snapshot(reply[place], reply[place + 2])
            if snapshot is None:
                gone.append(reply[place])
            else:
                carts.append(snapshot)
        return CartDump(
            at_ms=int(reply[1]),
            epoch=int(reply[2]),
            position=Position.parse(reply[3]),
            carts=carts,
            gone=gone,
            change=int(reply[-2]) if len(reply) > 4 else after,
        )

    async def find_gone_carts(self, offset: int, count: int) -> GoneCarts:
        """Look at a slice of `activity`."""
        keys = (self.keys.gate, self.keys.activity)
        reply = await self.call(script("cart_find_gone"), keys, offset, count)
        return GoneCarts(looked_at=int(reply[1]), epoch=int(reply[2]), cart_ids=list(reply[3:]))

    async def forget_carts(self, cart_ids: list[str]) -> list[str]:
        """Take carts that are gone out of `activity`; those that it took."""
        reply = await self.call(script("cart_forget"), (self.keys.gate, self.keys.activity), *cart_ids)
        return list(reply[1:])

    async def noted_to(self) -> tuple[int, str]:
        gate = await read_gate(self._client, self.keys)
        return gate.epoch, gate.used

    async def note_used(self, payment_ids: str, *, after: str, epoch: int) -> bool:
        reply = await self.call(script("used_note"), (self.keys.gate,), epoch, after, payment_ids)
        return bool(reply[0] == "OK")

    async def repair_index(self, sku: str) -> int:
        keys = (self.keys.gate, self.keys.sku(sku))
        return int((await self.call(script("hold_repair_index"), keys, AUDITED_HOLDS_MAX))[1])

    async def serve_backorders(self, sku: str) -> int:
        return int((await self.call(script("backorder_serve"), (self.keys.gate, self.keys.sku(sku))))[1])

    async def repair_claim(self, claim: HoldClaim) -> bool:
        # A cart's id tells that it is one: `u.` or `g.`; an order's has no point.
        holder = self.keys.cart if "." in claim.holder else self.keys.order
        reply = await self.call(
            script("hold_repair_claim"),
            (self.keys.gate, holder(claim.holder), self.keys.sku(claim.sku)),
            claim.line_id,
            AUDITED_HOLDS_MAX,
        )
        return bool(reply[1] == "1")

    async def repair_due(self, payment_id: str) -> bool:
        keys = (self.keys.gate, self.keys.payment(payment_id), self.keys.due)
        return bool((await self.call(script("payment_repair_due"), keys))[1] != "0")

    async def repair_totals(self, cart_id: str, *, cart_ttl_ms: int) -> bool:
        keys = (self.keys.gate, self.keys.cart(cart_id))
        return bool((await self.call(script("cart_repair_totals"), keys, cart_ttl_ms))[1] == "1")

    async def stray_orders(self, order_ids: Sequence[str]) -> list[str]:
        pipeline = self._client.pipeline(transaction=False)
        for order_id in order_ids:
            pipeline.hget(self.keys.order(order_id), "status")
            pipeline.exists(self.keys.payment(payment_id_of_order(order_id)))
        try:
            # What is no hash at all answers with an error, and is for the visit to all claims to tell.
            found = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error
        states = zip(order_ids, found[::2], found[1::2], strict=True)
        return [order_id for order_id, status, exists in states if status == "pending" and exists == 0]

    async def void_orders(self, payment_id: str, *, cart_ttl_ms: int, unknown_at: Position) -> bool:
        keys = (self.keys.gate, self.keys.payment(payment_id))
        reply = await self.call(script("order_void"), keys, cart_ttl_ms, str(unknown_at), _LATER_EVENTS_MAX)
        return bool(reply[1] != "0")

    async def reattach_payment(self, payment: Payment, *, cart_ttl_ms: int) -> bool:
        keys = (self.keys.gate, self.keys.payment(payment.payment_id))
        fields = msgspec.json.encode(payment_fields(payment, cart_ttl_ms)).decode()
        return bool((await self.call(script("payment_reattach"), keys, fields))[1] == "1")

    async def cart_claims(self, cart_ids: Sequence[str]) -> list[Claim]:
        return await self._claims_of(cart_ids, [self.keys.cart(cart_id) for cart_id in cart_ids])

    async def order_claims(self, order_ids: Sequence[str]) -> list[Claim]:
        return await self._claims_of(order_ids, [self.keys.order(order_id) for order_id in order_ids])

    async def _claims_of(self, holders: Sequence[str], hashes: Sequence[str]) -> list[Claim]:
        reply = await self.call(script("hold_read_claims"), (self.keys.gate, *hashes))
        return [
            Claim(holder=holders[int(number) - 1], sku=sku, units=int(units), is_guest=guest == "1")
            for number, sku, units, guest in _rows(reply, 1, 4)
        ]

    async def repair_held(self, audit: CounterAudit, counted: Counted) -> bool:
        reply = await self.call(
            script("stock_repair_held"),
            (self.keys.gate, self.keys.sku(audit.sku)),
            audit.epoch,
            audit.rev,
            audit.counter.held,
            audit.counter.guest_held,
            counted.held,
            counted.guest_held,
        )
        return bool(reply[1] == "1")
