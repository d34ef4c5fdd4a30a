"""The whole error taxonomy. Owns codes and typed fields; imports no driver and no framework.

CartStoreError
├── CartError                      expected, the caller can act on it; never logged as an error
│   ├── EventsGone                 events before the oldest that is kept
│   ├── NotFound                   ItemNotFound · ProductNotFound · OrderNotFound · PaymentNotFound
│   ├── Conflict                   CartEmpty · InsufficientStock · ProductInactive · PriceChanged
│   │                              TotalChanged · CheckoutRefused · StockConflict · CurrencyMismatch
│   │                              LineChanged · OrderState · PaymentState · PaymentExpired
│   │                              IdempotencyInProgress
│   ├── VersionConflict            If-Match named another version
│   ├── Invalid                    InvalidField · InvalidQuantity · OptionRequired · OptionNotAvailable
│   │                              LimitExceeded · NotYetOnSale · PurchaseLimitReached
│   │                              IdempotencyKeyReused · FeatureOff
│   └── CallerError                Unauthenticated · Forbidden
├── StoreError                     the store could not answer
│   ├── StoreUnavailable           not applied: nothing was sent, or it was refused whole
│   │   ├── WritesRefused          the engine answers, and takes no writes now
│   │   ├── StoreRecovering        the gate is fenced; recovery is under way
│   │   └── StoreFull              memory or outbox bound reached
│   └── OutcomeUnknown             sent, no answer: retry with the same idempotency key
│       └── PartlyApplied          the engine refused a command in the middle of a script
├── ConfigurationError             settings or environment that the store refuses to start with
├── UsageError                     the program that uses the library calls it from where it cannot work
│                                  OtherProcess · OtherEventLoop
└── ContractError                  our bug: a reply or a state that no code path allows
    ├── EventRefused               the record refuses an event of the outbox
    └── OutboxBroken               the outbox has a gap or a fork

`code` is the stable name that api.md lists; the HTTP status is the API's business.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

Repeat = Literal["Idempotency-Key", "reference", "call"]
"""By what a call is known when it is repeated; `call`: one that changes nothing the second time."""

HOW_TO_REPEAT: dict[Repeat, str] = {
    "Idempotency-Key": "Repeat the call with the same Idempotency-Key to learn its outcome.",
    "reference": "Repeat the call with the same reference and content to learn its outcome: it counts once.",
    "call": "Repeat the call to learn its outcome: it changes nothing twice.",
}


class CartStoreError(Exception):
    """Base of everything that this library raises on purpose. A subclass's docstring is its message."""

    code: ClassVar[str] = "INTERNAL"
    default_message: ClassVar[str] = ""

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        # The docstring's first line is for the caller; what it says of fields, from "Sets" on, is for us.
        cls.default_message = (cls.__doc__ or cls.__name__).strip().split("\n")[0].split(" Sets ")[0]

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.default_message)

    @property
    def message(self) -> str:
        return str(self.args[0])

    @property
    def for_operators(self) -> str:
        """The message for a terminal or a log; may name a server and its words. Callers get `message`."""
        return self.message


class CartError(CartStoreError):
    """The request cannot be carried out as it stands.

    Every field below is optional; a subclass documents those that it sets.
    """

    code = "CONFLICT"
    errors: list[tuple[str, str]] | None = None
    """(field, message) of every wrong field, when more than the first was looked for."""

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        line_id: str | None = None,
        sku: str | None = None,
        available_quantity: int | None = None,
        requested_quantity: int | None = None,
        shortfalls: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.line_id = line_id
        self.sku = sku
        self.available_quantity = available_quantity
        self.requested_quantity = requested_quantity
        self.shortfalls = shortfalls


class NotFound(CartError):
    """There is nothing under this name."""

    code = "NOT_FOUND"


class ItemNotFound(NotFound):
    """The cart has no such line."""

    code = "ITEM_NOT_FOUND"


class ProductNotFound(NotFound):
    """No product or variant has this name."""

    code = "PRODUCT_NOT_FOUND"


class OrderNotFound(NotFound):
    """You have no such order."""

    code = "ORDER_NOT_FOUND"


class PaymentNotFound(NotFound):
    """You have no such payment."""

    code = "PAYMENT_NOT_FOUND"


class EventsGone(CartError):
    """Events that were asked for are not kept any more. Sets oldest and after.

    `oldest`: position of the oldest event that is kept; `after`: what to read after to get it.
    """

    code = "EVENTS_GONE"

    def __init__(self, message: str | None = None, *, oldest: str | None = None, after: str = "0-0") -> None:
        super().__init__(message)
        self.oldest = oldest
        self.after = after


class Conflict(CartError):
    """The current state does not allow this."""


class CartEmpty(Conflict):
    """There is nothing in the cart to check out."""

    code = "CART_EMPTY"


class InsufficientStock(Conflict):
    """Not enough units are available. Sets sku, available_quantity, requested_quantity or shortfalls.

    `fitting_quantity`: of a single line, the most that the product's quantity rules allow of what is
    available; 0 when that is nothing.
    """

    code = "INSUFFICIENT_STOCK"
    fitting_quantity: int | None = None


class ProductInactive(Conflict):
    """The product is not on sale."""

    code = "PRODUCT_INACTIVE"


class PriceChanged(Conflict):
    """A price rose since the buyer saw it. Sets shortfalls, one entry per line with old and new price."""

    code = "PRICE_CHANGED"


class LineChanged(Conflict):
    """Options, product or currency of a line changed since the buyer saw it. Sets shortfalls."""

    code = "LINE_CHANGED"


class TotalChanged(Conflict):
    """The total differs from expected_total."""

    code = "TOTAL_CHANGED"


class CheckoutRefused(Conflict):
    """Several lines cannot be checked out, for different reasons. Sets shortfalls."""

    code = "CHECKOUT_VALIDATION_FAILED"


class StockConflict(Conflict):
    """The stock is not what the call expected, or units below what is held would remain."""

    code = "STOCK_CONFLICT"


class CurrencyMismatch(Conflict):
    """The product is sold in another currency than the cart's."""

    code = "CURRENCY_MISMATCH"


class OrderState(Conflict):
    """The order's state does not allow this."""

    code = "ORDER_STATE"


class PaymentState(Conflict):
    """The payment's state does not allow this."""

    code = "PAYMENT_STATE"


class PaymentExpired(Conflict):
    """The payment window is over and the order was released."""

    code = "PAYMENT_EXPIRED"


class IdempotencyInProgress(Conflict):
    """A call with this Idempotency-Key is still running."""

    code = "IDEMPOTENCY_IN_PROGRESS"


class VersionConflict(CartError):
    """It has another version than If-Match named. Sets version.

    `version`: the current one of the cart, or the revision of the product (0: there is none).
    """

    code = "VERSION_CONFLICT"

    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = version


class Invalid(CartError):
    """The request has a value that is not allowed."""

    code = "VALIDATION_FAILED"


class InvalidField(Invalid):
    """A field has a value that is not allowed. Sets field."""


class InvalidQuantity(Invalid):
    """The quantity breaks one of the product's quantity rules."""

    code = "INVALID_QUANTITY"


class OptionRequired(Invalid):
    """The product is sold in variants; name the options."""

    code = "OPTION_REQUIRED"


class OptionNotAvailable(Invalid):
    """The product has no such option."""

    code = "OPTION_NOT_AVAILABLE"


class NotYetOnSale(Invalid):
    """The product is not on sale yet. Sets starts_at_ms, of a single line."""

    code = "NOT_YET_ON_SALE"
    starts_at_ms: int | None = None


class PurchaseLimitReached(Invalid):
    """One customer may not buy that many of the product. Sets available_quantity, requested_quantity or
    shortfalls.

    `available_quantity`: the most that the line can have.
    """

    code = "PURCHASE_LIMIT"


class LimitExceeded(Invalid):
    """A limit of the cart would be exceeded."""

    code = "LIMIT_EXCEEDED"


class IdempotencyKeyReused(Invalid):
    """This Idempotency-Key was used for another request."""

    code = "IDEMPOTENCY_KEY_REUSED"


class FeatureOff(Invalid):
    """This feature is switched off."""

    code = "FEATURE_OFF"


class CallerError(CartError):
    """The caller may not do this."""


class Unauthenticated(CallerError):
    """Sign in, or send a valid token."""

    code = "UNAUTHENTICATED"


class Forbidden(CallerError):
    """The token lacks the scope for this."""

    code = "FORBIDDEN"


class StoreError(CartStoreError):
    """The store could not answer."""

    code = "STORE_UNAVAILABLE"


class StoreUnavailable(StoreError):
    """The store cannot be reached; the change was not applied. Sets `for_operators`."""

    def __init__(self, message: str | None = None, *, for_operators: str = "") -> None:
        super().__init__(message)
        self._for_operators = for_operators

    @property
    def for_operators(self) -> str:
        return self._for_operators or self.message


class WritesRefused(StoreUnavailable):
    """The engine answers and takes no writes at the moment; the change was not applied."""


class StoreRecovering(StoreUnavailable):
    """The store is recovering after a restart; the change was not applied. Try again shortly."""

    code = "STORE_RECOVERING"


class StoreFull(StoreUnavailable):
    """The store has no room for new work; the change was not applied."""

    code = "STORE_FULL"


class OutcomeUnknown(StoreError):
    """The change was sent but no answer came; it may have been applied.

    Repeat it as `repeat` says: the first result is given again.
    """

    code = "OUTCOME_UNKNOWN"

    def __init__(self, message: str | None = None, *, repeat: Repeat = "Idempotency-Key") -> None:
        super().__init__(message)
        self.repeat: Repeat = repeat


class PartlyApplied(OutcomeUnknown):
    """The engine refused a command in the middle of a script; part of the change may have been applied.

    Retry with the same idempotency key. `__cause__` is what the engine said.
    """


class ConfigurationError(CartStoreError):
    """The settings or the environment do not allow a start."""

    code = "CONFIGURATION"


class UsageError(CartStoreError):
    """The store is used in a way that cannot work."""

    code = "INTERNAL"


class OtherProcess(UsageError):
    """The store was opened before a fork; open a store in each process."""


class OtherEventLoop(UsageError):
    """The store belongs to another event loop; open a store in each event loop."""


class ContractError(CartStoreError):
    """A defect of cartstore itself: a reply or a state that no code path allows."""

    code = "INTERNAL"


class EventRefused(ContractError):
    """The record refuses an event: it contradicts what is recorded already."""


class OutboxBroken(ContractError):
    """The outbox has a gap or a fork: an event does not follow the last one that was applied."""


NOT_APPLIED = "; the change was not applied"
"""What messages of StoreUnavailable say of the caller's change."""


def fact_of(error: CartStoreError) -> str:
    """What an error says to somebody who changes nothing: without what became of a change."""
    if isinstance(error, PartlyApplied):
        return (
            f"The engine refused a command in the middle of a script: {error.__cause__ or 'it says no more'}."
        )
    if isinstance(error, OutcomeUnknown):
        return "The store gave no answer in time."
    return error.message.replace(NOT_APPLIED, "")
