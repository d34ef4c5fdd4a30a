"""What two engines have to agree on. Owns the normal forms of results, errors, carts, payments and events.

Left out is only what the contract leaves open: positions, which count releases on the way; availability in
a replayed result; and numbers of versions. Two engines may release two due orders in another order, so their
version numbers may differ, but not the sequence of versions that a cart goes through.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from cartstore.errors import CartError, InsufficientStock, PurchaseLimitReached, VersionConflict
from cartstore.model import (
    Cart,
    CartResult,
    Checkout,
    Event,
    HoldResult,
    ItemOutcome,
    Line,
    LineResult,
    Order,
    OrderLine,
    Payment,
    PaymentResult,
    PutResult,
    StockLevel,
    StockResult,
    Summary,
)

_OF_NOW = (
    "held",
    "hold_expires_at_ms",
    "first_held_at_ms",
    "current_price_minor",
    "current_revision",
    "is_active",
    "policy",
    "available_quantity",
    "is_changed",
    "has_other_currency",
    "rests_until_ms",
)
"""What a replayed line may tell as it was then or as it is now."""


class Versions:
    """Numbers the versions that one engine gave each cart, in the order in which they were seen."""

    def __init__(self) -> None:
        self._seen: defaultdict[str, list[int]] = defaultdict(list)

    def rank(self, cart_id: str, version: int) -> int:
        seen = self._seen[cart_id]
        if version not in seen:
            assert not seen or version > seen[-1], f"{cart_id} went from version {seen[-1]} to {version}"
            assert (
                all(version not in others for other, others in self._seen.items() if other != cart_id)
                or version == 0
            ), f"version {version} was given to two carts"
            seen.append(version)
        return seen.index(version)

    def last(self, cart_id: str) -> int:
        seen = self._seen[cart_id]
        return seen[-1] if seen else 0

    def stale(self, cart_id: str) -> int:
        """A version that the cart had once, or one that it never had."""
        seen = self._seen[cart_id]
        return seen[-2] if len(seen) > 1 else self.last(cart_id) + 1


def of_summary(summary: Summary, cart_id: str, versions: Versions) -> dict[str, Any]:
    return _fields(summary) | {"version": versions.rank(cart_id, summary.version)}


def of_line(line: Line, *, replayed: bool = False) -> dict[str, Any]:
    fields = _fields(line)
    if replayed:
        for name in _OF_NOW:
            del fields[name]
    elif not line.held:
        assert line.hold_expires_at_ms == 0
        del fields["first_held_at_ms"]
    return fields


def of_cart(cart: Cart, versions: Versions) -> dict[str, Any]:
    return _fields(cart) | {
        "summary": of_summary(cart.summary, cart.cart_id, versions),
        "lines": [of_line(line) for line in cart.lines],
    }


def of_payment(payment: Payment, orders: tuple[Order, ...]) -> dict[str, Any]:
    return {"payment": _fields(payment), "orders": [_of_order(order) for order in orders]}


def _of_order(order: Order) -> dict[str, Any]:
    fields = _fields(order) | {"lines": [_of_order_line(line) for line in order.lines]}
    if order.status != "released":
        del fields["release_reason"]
    return fields


def _of_order_line(line: OrderLine) -> dict[str, Any]:
    fields = _fields(line)
    if line.mode != "held":
        del fields["first_held_at_ms"]
    return fields


def of_result(result: Any, cart_id: str, versions: Versions) -> Any:
    """The normal form of whatever a verb returns."""
    match result:
        case LineResult():
            line = result.line and of_line(result.line, replayed=result.replayed)
            kind = ("line", line, result.created, result.replayed)
            return (*kind, of_summary(result.summary, cart_id, versions))
        case CartResult():
            return ("cart", result.replayed, of_summary(result.summary, cart_id, versions))
        case HoldResult():
            summary = of_summary(result.summary, cart_id, versions)
            return ("hold", result.replayed, summary, of_cart(result.cart, versions))
        case PutResult():
            outcomes = [_of_outcome(outcome) for outcome in result.outcomes]
            return ("put", outcomes, result.replayed, of_summary(result.summary, cart_id, versions))
        case Cart():
            return of_cart(result, versions)
        case Checkout():
            return (of_payment(result.payment, result.orders), result.replayed)
        case PaymentResult():
            return (of_payment(result.payment, result.orders), result.changed)
        case StockResult():
            level = None if result.replayed else of_level(result.level)
            return (level, result.delta, result.replayed)
        case list():
            return [of_result(one, cart_id, versions) for one in result]
        case StockLevel():
            return of_level(result)
        case _:
            return result


def _of_outcome(outcome: ItemOutcome) -> tuple[Any, ...]:
    is_told = outcome.code in ("INSUFFICIENT_STOCK", "PURCHASE_LIMIT", "INVALID_QUANTITY")
    available = outcome.available_quantity if is_told else None
    return (outcome.line_id, outcome.sku, outcome.code, outcome.requested_quantity, available)


def of_level(level: StockLevel) -> dict[str, Any]:
    return _fields(level)


def of_error(error: CartError, cart_id: str, versions: Versions) -> tuple[Any, ...]:
    """An error with the fields that the contract says it has."""
    told: list[Any] = [type(error).__name__]
    if isinstance(error, VersionConflict):
        told.append(versions.rank(cart_id, error.version))
    if error.shortfalls is not None:
        told += [_of_shortfall(shortfall) for shortfall in error.shortfalls]
    elif isinstance(error, PurchaseLimitReached):
        told += [error.sku, error.available_quantity, error.requested_quantity]
    elif isinstance(error, InsufficientStock):
        told += [error.sku, error.available_quantity, error.requested_quantity, error.fitting_quantity]
    return tuple(told)


def _of_shortfall(shortfall: dict[str, Any]) -> tuple[Any, ...]:
    told = [shortfall[name] for name in ("line_id", "sku", "code", "requested_quantity")]
    if shortfall["code"] in ("INSUFFICIENT_STOCK", "PURCHASE_LIMIT", "INVALID_QUANTITY"):
        told.append(shortfall["available_quantity"])
    if shortfall["code"] == "PRICE_CHANGED":
        told += [shortfall["old_price_minor"], shortfall["new_price_minor"]]
    return tuple(told)


def of_events(events: Sequence[Event]) -> Counter[tuple[str, int, bytes]]:
    """What several events say. Units that became free in one step may go to backorders in one event or in
    several, so they are added up."""
    told = Counter(of_event(event) for event in events if event.type != "backorder_filled")
    for event in events:
        if event.type == "backorder_filled":
            told[event.type, event.at_ms, event.body["sku"].encode()] += int(event.body["filled"])
    return told


def of_event(event: Event) -> tuple[str, int, bytes]:
    body = dict(event.body)
    if event.type == "payment_settled":
        # Lua cannot tell an empty list from an empty object, so no sales may be told as absent.
        body["sales"] = body.get("sales") or []
    return (event.type, event.at_ms, msgspec.json.encode(body, order="sorted"))


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(struct)
