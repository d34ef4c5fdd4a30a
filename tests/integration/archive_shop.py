"""Outbox events as the scripts write them, for tests of the record: numbers are strings of digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cartstore.model import Event, Position

NOW_MS = 1_750_000_000_000


class Story:
    """Events in the order they happened, each with the next seq."""

    def __init__(self, epoch: int = 1, seq: int = 0) -> None:
        self.epoch = epoch
        self.seq = seq
        self.events: list[Event] = []

    def tell(self, type_: str, **body: Any) -> Event:
        self.seq += 1
        event = Event(
            position=Position(self.epoch, self.seq),
            nonce=f"nonce-{self.epoch}-{self.seq}",
            type=type_,
            at_ms=NOW_MS + self.seq,
            body_json=msgspec.json.encode(body).decode(),
        )
        self.events.append(event)
        return event

    def adjusted(
        self, sku: str, delta: int, on_hand: int, reference: str | None = None, *, filled: int = 0
    ) -> Event:
        """`on_hand` is the count behind it. Without `filled`, as a version wrote it that filled nothing."""
        return self.tell(
            "stock_adjusted",
            sku=sku,
            delta=str(delta),
            **({"filled": str(filled)} if filled else {}),
            on_hand=str(on_hand),
            reason="received",
            reference=reference or f"delivery-{self.seq + 1}",
            fingerprint=f"print-{delta}",
        )

    def filled(self, sku: str, units: int, on_hand: int) -> Event:
        return self.tell("backorder_filled", sku=sku, filled=str(units), on_hand=str(on_hand))

    def begun(
        self,
        number: int,
        *lines: dict[str, Any],
        cart_id: str = "u.ada",
        sellers: Sequence[str] = ("tern",),
        details_json: str = "{}",
    ) -> Event:
        """A checkout with one order per seller, each with these lines (one unit of `mug` by default)."""
        taken = list(lines) or [line("mug")]
        return self.tell(
            "checkout_begun",
            payment_id=payment_id(number),
            checkout_id=f"c0-{number:032x}",
            checkout_type="full_cart",
            cart_id=cart_id,
            amount_minor=str(1_500 * len(sellers)),
            currency="EUR",
            gateway="simulated",
            method="card",
            expires_at_ms=str(NOW_MS + 900_000),
            created_at_ms=str(NOW_MS + number),
            fingerprint=f"print-{number}",
            details_json=details_json,
            orders=[
                {"order_id": order_id(number, n), "seller": seller, "total_minor": "1500", "lines": taken}
                for n, seller in enumerate(sellers, 1)
            ],
        )

    def failed(self, number: int, attempts: int) -> Event:
        return self.tell("payment_failed", payment_id=payment_id(number), attempts=str(attempts))

    def paid(self, number: int, *sales: dict[str, str]) -> Event:
        return self.tell(
            "payment_settled", payment_id=payment_id(number), outcome="paid", sales=list(sales) or {}
        )

    def refund_due(self, number: int) -> Event:
        # Lua's encoder writes an empty list as an empty object.
        return self.tell("payment_settled", payment_id=payment_id(number), outcome="refund_due", sales={})

    def released(self, number: int, reason: str = "expired") -> Event:
        return self.tell("payment_released", payment_id=payment_id(number), reason=reason)

    def refunded(self, number: int, n: int = 1, payment_status: str = "refunded") -> Event:
        return self.tell("order_refunded", order_id=order_id(number, n), payment_status=payment_status)


def with_body(event: Event, **changes: Any) -> Event:
    """The event with other values in its body."""
    body_json = msgspec.json.encode({**event.body, **changes}).decode()
    return msgspec.structs.replace(event, body_json=body_json)


def payment_id(number: int) -> str:
    return f"p0-{number:032x}"


def order_id(number: int, n: int = 1) -> str:
    return f"o0-{number:032x}-{n}"


def line(sku: str, quantity: int = 1, mode: str = "held", **more: str) -> dict[str, Any]:
    return {
        "line_id": sku,
        "sku": sku,
        "quantity": str(quantity),
        "held": str(quantity if mode == "held" else 0),
        "mode": mode,
        "unit_price_minor": "1500",
        "revision": "7",
        "first_held_at_ms": str(NOW_MS),
        **more,
    }


def sale(number: int, sku: str, taken: int, backordered: int = 0, n: int = 1) -> dict[str, str]:
    return {
        "order_id": order_id(number, n),
        "sku": sku,
        "quantity": str(taken + backordered),
        "taken": str(taken),
        "backordered": str(backordered),
    }
