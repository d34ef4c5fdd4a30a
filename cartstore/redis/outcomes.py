"""One table from script tags to errors. Owns the meaning of every refusal; a tag that is not here is a
defect (ContractError). tests/tidy holds this table and the headers of the scripts together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from cartstore import errors

Refusal = Sequence[str]

SUCCESSES = frozenset({"OK", "REPLAYED", "UNCHANGED", "REFUSED", "RACED", "LAYOUT", "DIVERGED", "NOTHING"})
"""Tags that the caller of a script reads itself."""

AGAIN = "AGAIN"
"""More holds are due than one call may release; the caller calls again."""

DUE = "DUE"
"""Holds of a SKU are due; the caller has them released and calls again."""

OWNER_DUE = "OWNER_DUE"
"""The owner holds all that is allowed, unless some of it is due; the caller has that released."""

OWED = "OWED"
"""Units would be given back that may serve a paid backorder; the caller calls again, with a nonce for its
event."""

RETRIED = frozenset({AGAIN, DUE, OWNER_DUE, OWED})

_LIMIT_TEXTS = {
    "max_quantity_per_line": "A line can have at most {} units.",
    "max_lines_per_cart": "A cart can have at most {} lines.",
    "max_items_per_cart": "A cart can have at most {} units over all lines.",
    "max_held_per_owner": "At most {} units can be held for one buyer.",
    "total": "The total would exceed {} minor units.",
    "on_hand": "Stock cannot exceed {} units.",
}


def _invalid_quantity(reply: Refusal) -> errors.CartError:
    minimum, maximum, multiple, *others = reply[1].split(" ")
    if others and others != ["0"]:
        return errors.InvalidQuantity(
            f"The cart may have at most {maximum} units of it; other lines have {others[0]} of them.",
            field="quantity",
            available_quantity=int(reply[2]),
        )
    rules = [f"at least {minimum}"]
    if maximum != "0":
        rules.append(f"at most {maximum}")
    if multiple != "1":
        rules.append(f"a multiple of {multiple}")
    return errors.InvalidQuantity(f"The quantity must be {', '.join(rules)}.", field="quantity")


def _insufficient_stock(reply: Refusal) -> errors.CartError:
    error = errors.InsufficientStock(available_quantity=int(reply[1]), requested_quantity=int(reply[2]))
    error.fitting_quantity = int(reply[3])
    return error


def _not_yet_on_sale(reply: Refusal) -> errors.CartError:
    starts_at_ms = int(reply[1])
    starts = datetime.fromtimestamp(starts_at_ms / 1_000, UTC).isoformat(timespec="seconds")
    error = errors.NotYetOnSale(f"The sale of the product starts at {starts.replace('+00:00', 'Z')}.")
    error.starts_at_ms = starts_at_ms
    return error


def _purchase_limit(reply: Refusal) -> errors.CartError:
    available, requested, limit, window_ms, left = map(int, reply[1:6])
    return errors.PurchaseLimitReached(
        f"One customer may buy {limit} of it within {window_ms // 1_000} seconds; {left} of them "
        f"{'is' if left == 1 else 'are'} left.",
        field="quantity",
        available_quantity=available,
        requested_quantity=requested,
    )


def _contact_needed(reply: Refusal) -> errors.CartError:
    message = "What one customer may buy of a product is limited: give an e-mail address or a phone number."
    error = errors.InvalidField(message, field="contact.email", sku=reply[1])
    error.errors = [("contact.email", message), ("contact.phone", message)]
    return error


def _stock_conflict(reply: Refusal) -> errors.CartError:
    if reply[1] == "reference":
        return errors.StockConflict("This reference was used for another adjustment of this SKU.")
    if reply[1] == "expected":
        return errors.StockConflict(f"on_hand is {reply[2]}, not what the call expected.")
    return errors.StockConflict(
        f"on_hand is {reply[2]} and {reply[3]} of it are held; less than what is held cannot remain."
    )


REFUSALS: dict[str, Callable[[Refusal], errors.CartStoreError]] = {
    "FENCED": lambda _: errors.StoreRecovering(),
    "RECORD_NEEDED": lambda _: errors.StoreUnavailable(
        "The database is away, and only it knows whether this key was used; nothing was begun."
    ),
    "CUT_OFF": lambda _: errors.OutcomeUnknown(
        "The engine cut off an earlier call under this key or reference; its outcome is not known yet."
    ),
    "STORE_FULL": lambda _: errors.StoreFull(),
    "VERSION_CONFLICT": lambda reply: errors.VersionConflict(int(reply[1])),
    "IDEMPOTENCY_KEY_REUSED": lambda _: errors.IdempotencyKeyReused(),
    "ITEM_NOT_FOUND": lambda reply: errors.ItemNotFound(line_id=reply[1] if len(reply) > 1 else None),
    "PRODUCT_NOT_FOUND": lambda _: errors.ProductNotFound(field="sku"),
    "PRODUCT_INACTIVE": lambda _: errors.ProductInactive(),
    "CURRENCY_MISMATCH": lambda reply: errors.CurrencyMismatch(
        f"The cart is in {reply[1]}, the product is sold in {reply[2] or 'no currency'}."
        if len(reply) > 2
        else None,
        line_id=reply[3] if len(reply) > 3 else None,
    ),
    "NOT_YET_ON_SALE": _not_yet_on_sale,
    "INVALID_QUANTITY": _invalid_quantity,
    "PURCHASE_LIMIT": _purchase_limit,
    "CONTACT_NEEDED": _contact_needed,
    "IDENTITY_UNKNOWN": lambda _: errors.StoreUnavailable(
        "The database is away, and only it can tell what this customer has bought; nothing was begun."
    ),
    "LIMIT_EXCEEDED": lambda reply: errors.LimitExceeded(
        _LIMIT_TEXTS[reply[1]].format(reply[2]), field="quantity"
    ),
    "INSUFFICIENT_STOCK": _insufficient_stock,
    "STOCK_CONFLICT": _stock_conflict,
    "CART_EMPTY": lambda _: errors.CartEmpty(),
    "TOTAL_CHANGED": lambda reply: errors.TotalChanged(),
    "GATEWAY_NEEDED": lambda _: errors.InvalidField(
        "There is something to pay: name the gateway that takes it.", field="gateway"
    ),
    "PAYMENT_NOT_FOUND": lambda _: errors.PaymentNotFound(),
    "PAYMENT_EXPIRED": lambda _: errors.PaymentExpired(),
    "PAYMENT_STATE": lambda reply: errors.PaymentState(f"The payment is {reply[1]}."),
    "ORDER_NOT_FOUND": lambda _: errors.OrderNotFound(),
    "ORDER_STATE": lambda reply: errors.OrderState(f"The order is {reply[1]}."),
}

CODES_TO_ERRORS: dict[str, type[errors.CartError]] = {
    error.code: error
    for error in (
        errors.ItemNotFound,
        errors.ProductNotFound,
        errors.ProductInactive,
        errors.CurrencyMismatch,
        errors.NotYetOnSale,
        errors.InvalidQuantity,
        errors.PurchaseLimitReached,
        errors.LimitExceeded,
        errors.InsufficientStock,
        errors.PriceChanged,
        errors.LineChanged,
    )
}
"""Codes that one entry of a bulk set or one line of a checkout can have."""


def refusal(reply: Refusal) -> errors.CartStoreError:
    """The error that a refusing reply stands for; ContractError for a tag that is not in the table."""
    make = REFUSALS.get(reply[0])
    if make is None:
        return errors.ContractError(f"No script answers {reply[0]!r}.")
    return make(reply)


def combined(problems: list[dict[str, object]]) -> errors.CartError:
    """One error for several problems: their own class when all have one code, else CheckoutRefused."""
    codes = {str(problem["code"]) for problem in problems}
    kind = CODES_TO_ERRORS[codes.pop()] if len(codes) == 1 else errors.CheckoutRefused
    error = kind(shortfalls=problems)
    if len(problems) == 1:
        first = problems[0]
        error.line_id = str(first["line_id"])
        error.sku = str(first["sku"])
        available, requested = first.get("available_quantity"), first.get("requested_quantity")
        error.available_quantity = available if isinstance(available, int) else None
        error.requested_quantity = requested if isinstance(requested, int) else None
        if error.code == errors.PurchaseLimitReached.code:
            error.args = (f"One customer may buy no more than {error.available_quantity} of it now.",)
    return error
