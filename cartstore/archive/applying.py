"""What a batch of events does to the record, worked out in memory. No I/O.

Events of one payment build on each other, so they are folded in their order; what comes out are the rows
to insert and the rows to change, each once, however many events touched them. The repository writes
them with one statement per table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from cartstore.archive.backorders import Backorder, Waiting
from cartstore.archive.events import (
    BACKORDER_ASSIGNED,
    BackorderAssigned,
    BackorderFilled,
    Body,
    CheckoutBegun,
    OrderRefunded,
    PaymentFailed,
    PaymentReleased,
    PaymentSettled,
    StockAdjusted,
    decode,
)
from cartstore.errors import EventRefused
from cartstore.model import (
    Event,
    OrderStatus,
    PaymentStatus,
    ReleaseReason,
    payment_id_of_order,
)

SETTLES_FROM: Final[Mapping[str, frozenset[PaymentStatus]]] = {
    "paid": frozenset({"pending", "expired", "cancelled"}),
    "refund_due": frozenset({"expired", "cancelled"}),
}
"""A late payment settles what was released before; only such a one can be due back."""

REFUNDS_FROM: Final[frozenset[OrderStatus]] = frozenset({"refund_due", "paid"})


class OrderState(msgspec.Struct):
    order_id: str
    status: OrderStatus = "pending"
    release_reason: ReleaseReason | None = None


class PaymentState(msgspec.Struct):
    """The part of a payment that events change."""

    payment_id: str
    status: PaymentStatus
    attempts: int
    orders: dict[str, OrderState]
    paid_at_ms: int | None = None


class StockCount(msgspec.Struct):
    on_hand: int = 0
    sold: int = 0
    backordered: int = 0


class LedgerLine(msgspec.Struct, frozen=True):
    epoch: int
    seq: int
    line: int
    sku: str
    delta: int
    on_hand: int
    kind: str
    reason: str
    reference: str
    order_id: str | None
    fingerprint: str
    at_ms: int


class Decoded(msgspec.Struct, frozen=True):
    event: Event
    body: Body


def decode_all(events: Iterable[Event]) -> list[Decoded]:
    """Raises EventRefused for the first event that has no known shape."""
    return [Decoded(event, decode(event)) for event in events]


def payments_needed(batch: Sequence[Decoded]) -> list[str]:
    """Payments that the batch changes but does not begin: their state must be read first."""
    begun = {entry.body.payment_id for entry in batch if isinstance(entry.body, CheckoutBegun)}
    named = set()
    for entry in batch:
        match entry.body:
            case PaymentFailed() | PaymentSettled() | PaymentReleased():
                named.add(entry.body.payment_id)
            case OrderRefunded():
                named.add(payment_id_of_order(entry.body.order_id))
    return sorted(named - begun)


def skus_needed(batch: Sequence[Decoded]) -> list[str]:
    """SKUs whose counters the batch changes."""
    skus: set[str] = set()
    for entry in batch:
        match entry.body:
            case StockAdjusted() | BackorderFilled():
                skus.add(entry.body.sku)
            case PaymentSettled():
                skus.update(sale.sku for sale in entry.body.sold)
    return sorted(skus)


def units_to_assign(batch: Sequence[Decoded]) -> dict[str, int]:
    """Units of each SKU that go to backorders."""
    units: dict[str, int] = {}
    for entry in batch:
        if isinstance(entry.body, StockAdjusted | BackorderFilled) and entry.body.filled:
            units[entry.body.sku] = units.get(entry.body.sku, 0) + entry.body.filled
    return units


class Changes:
    """The rows that a batch makes and changes, given the rows that it builds on. `waiting`: as far as the
    batch serves them (`units_to_assign`).

    Raises EventRefused while folding when an event contradicts the state before it.
    """

    def __init__(
        self,
        payments: Mapping[str, PaymentState],
        stock: Mapping[str, StockCount],
        waiting: Mapping[str, Sequence[Backorder]],
    ) -> None:
        self.begun: list[CheckoutBegun] = []
        self.ledger: list[LedgerLine] = []
        self.waiting = Waiting(waiting)
        self.feed: list[tuple[Any, ...]] = []
        """Events that the record adds, as rows of `events`."""
        self.stock = dict(stock)
        self.payments = dict(payments)

    def fold(self, batch: Iterable[Decoded]) -> None:
        for entry in batch:
            match entry.body:
                case StockAdjusted():
                    self._adjust(entry.event, entry.body)
                case CheckoutBegun():
                    self._begin(entry.body)
                case PaymentFailed():
                    self._fail(entry.body)
                case PaymentSettled():
                    self._settle(entry.event, entry.body)
                case PaymentReleased():
                    self._release(entry.body)
                case OrderRefunded():
                    self._refund(entry.body)
                case BackorderFilled():
                    self._fill(entry.event, entry.body, 0)

    def begun_ids(self) -> set[str]:
        return {begun.payment_id for begun in self.begun}

    def _adjust(self, event: Event, body: StockAdjusted) -> None:
        self._count(body.sku).on_hand += body.delta
        # The ledger keeps what the engine answered, because a repeated call is answered from it. Should it
        # differ from the count here, that is drift, which reconciling finds; refusing would hide it.
        self._write(event, 0, body.sku, body.delta, body.on_hand + body.filled, "adjust", body.reason,
                    body.reference, None, body.fingerprint)  # fmt: skip
        self._fill(event, body, 1)

    def _fill(self, event: Event, body: StockAdjusted | BackorderFilled, line: int) -> None:
        """Units go to the oldest paid orders that wait for them: a ledger row from `line` on and an event of
        the feed for each."""
        if not body.filled:
            return
        count = self._count(body.sku)
        count.on_hand -= body.filled
        count.backordered -= body.filled
        left = body.filled
        assigned = self.waiting.assign(body.sku, body.filled)
        for number, its in enumerate(assigned):
            left -= its.units
            self._write(event, line + number, body.sku, -its.units, body.on_hand + left, "backorder",
                        "backorder", f"{its.order_id}@{event.position}", its.order_id, "")  # fmt: skip
            told = BackorderAssigned(order_id=its.order_id, sku=body.sku, quantity=its.units, owed=its.owed)
            self.feed.append(_feed_row(event, number + 1, BACKORDER_ASSIGNED, told))

    def _begin(self, body: CheckoutBegun) -> None:
        if body.payment_id in self.payments:
            raise EventRefused(f"Payment {body.payment_id} was begun before.")
        self.begun.append(body)
        self.payments[body.payment_id] = PaymentState(
            payment_id=body.payment_id,
            status="pending",
            attempts=0,
            orders={order.order_id: OrderState(order.order_id) for order in body.orders},
        )

    def _fail(self, body: PaymentFailed) -> None:
        payment = self._payment(body.payment_id, {"pending"}, "fail")
        if body.attempts <= payment.attempts:
            raise EventRefused(f"Payment {body.payment_id} has counted attempt {body.attempts} before.")
        payment.attempts = body.attempts

    def _settle(self, event: Event, body: PaymentSettled) -> None:
        payment = self._payment(body.payment_id, SETTLES_FROM[body.outcome], f"become {body.outcome}")
        payment.status = body.outcome
        if body.outcome == "paid":
            payment.paid_at_ms = event.at_ms
        for order in payment.orders.values():
            order.status = body.outcome
            if body.outcome == "paid":
                order.release_reason = None
        for line, sale in enumerate(body.sold):
            if sale.order_id not in payment.orders:
                raise EventRefused(f"Order {sale.order_id} is not one of payment {body.payment_id}.")
            count = self._count(sale.sku)
            count.on_hand -= sale.taken
            count.sold += sale.quantity
            count.backordered += sale.backordered
            self._write(event, line, sale.sku, -sale.taken, count.on_hand, "sale", "sale", sale.order_id,
                        sale.order_id, "")  # fmt: skip
            if sale.backordered:
                self.waiting.add(
                    Backorder(
                        sale.order_id, sale.sku, event.position.epoch, event.position.seq, line,
                        sale.backordered, sale.backordered, event.at_ms,
                    )
                )  # fmt: skip

    def _release(self, body: PaymentReleased) -> None:
        payment = self._payment(body.payment_id, {"pending"}, "be released")
        payment.status = body.reason
        for order in payment.orders.values():
            order.status = "released"
            order.release_reason = body.reason

    def _refund(self, body: OrderRefunded) -> None:
        payment_id = payment_id_of_order(body.order_id)
        payment = self.payments.get(payment_id)
        order = payment.orders.get(body.order_id) if payment else None
        if payment is None or order is None:
            raise EventRefused(f"Order {body.order_id} is not recorded.")
        if order.status not in REFUNDS_FROM:
            raise EventRefused(f"Order {body.order_id} is {order.status} and cannot be refunded.")
        order.status = "refunded"
        payment.status = body.payment_status

    def _payment(self, payment_id: str, allowed: Iterable[PaymentStatus], verb: str) -> PaymentState:
        payment = self.payments.get(payment_id)
        if payment is None:
            raise EventRefused(f"Payment {payment_id} is not recorded.")
        if payment.status not in allowed:
            raise EventRefused(f"Payment {payment_id} is {payment.status} and cannot {verb}.")
        return payment

    def _count(self, sku: str) -> StockCount:
        return self.stock.setdefault(sku, StockCount())

    def _write(
        self,
        event: Event,
        line: int,
        sku: str,
        delta: int,
        on_hand: int,
        kind: str,
        reason: str,
        reference: str,
        order_id: str | None,
        fingerprint: str,
    ) -> None:
        position = event.position
        self.ledger.append(
            LedgerLine(
                position.epoch, position.seq, line, sku, delta, on_hand, kind, reason, reference, order_id,
                fingerprint, event.at_ms,
            )
        )  # fmt: skip


def _feed_row(event: Event, line: int, type_: str, body: msgspec.Struct) -> tuple[Any, ...]:
    """A row of `events` beside that of an event. Numbers are texts, as in what scripts write."""
    texts = {name: str(value) for name, value in msgspec.structs.asdict(body).items()}
    position = event.position
    return (
        *(position.epoch, position.seq, line, event.nonce, type_, event.at_ms),
        msgspec.json.encode(texts).decode(),
    )


def event_rows(batch: Iterable[Decoded]) -> list[tuple[Any, ...]]:
    """(epoch, seq, line, nonce, type, at_ms, body as JSON) of each event."""
    return [
        (
            entry.event.position.epoch,
            entry.event.position.seq,
            0,
            entry.event.nonce,
            entry.event.type,
            entry.event.at_ms,
            entry.event.body_json,
        )
        for entry in batch
    ]
