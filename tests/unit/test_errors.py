"""The taxonomy: the drawing in its docstring is the truth, and every code is one of the contract's."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from cartstore import errors
from cartstore.errors import CartError, CartStoreError, InsufficientStock, StoreError, VersionConflict

API_CODES = {
    "ITEM_NOT_FOUND", "PRODUCT_NOT_FOUND", "ORDER_NOT_FOUND", "PAYMENT_NOT_FOUND", "NOT_FOUND",
    "CART_EMPTY", "INSUFFICIENT_STOCK", "PRODUCT_INACTIVE", "PRICE_CHANGED", "TOTAL_CHANGED",
    "CHECKOUT_VALIDATION_FAILED", "STOCK_CONFLICT", "CURRENCY_MISMATCH", "ORDER_STATE", "PAYMENT_EXPIRED",
    "PAYMENT_STATE", "IDEMPOTENCY_IN_PROGRESS", "VERSION_CONFLICT", "VALIDATION_FAILED", "INVALID_QUANTITY",
    "OPTION_REQUIRED", "OPTION_NOT_AVAILABLE", "LIMIT_EXCEEDED", "IDEMPOTENCY_KEY_REUSED", "EVENTS_GONE",
    "NOT_YET_ON_SALE", "PURCHASE_LIMIT", "LINE_CHANGED", "FEATURE_OFF",
    "UNAUTHENTICATED", "FORBIDDEN", "STORE_UNAVAILABLE", "STORE_RECOVERING", "STORE_FULL", "OUTCOME_UNKNOWN",
}  # fmt: skip
"""What the REST contract lists of them."""


def _descendants(kind: type[CartStoreError]) -> Iterator[type[CartStoreError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _descendants(child)


ERRORS = sorted(set(_descendants(CartStoreError)), key=lambda kind: kind.__name__)
LEAVES = [kind for kind in ERRORS if not kind.__subclasses__()]


def _make(kind: type[CartStoreError]) -> CartStoreError:
    return VersionConflict(7) if kind is VersionConflict else kind()


def test_docstring_draws_every_error_when_one_is_added() -> None:
    drawn = set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)*\b", errors.__doc__ or ""))

    assert {kind.__name__ for kind in ERRORS} <= drawn


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_error_says_its_docstring_when_it_has_no_message(kind: type[CartStoreError]) -> None:
    error = _make(kind)

    first_line = (kind.__doc__ or "").strip().split("\n")[0]
    assert error.message
    assert first_line.startswith(error.message)
    assert error.message == str(error)


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_error_has_a_code_of_the_contract_when_callers_can_meet_it(kind: type[CartStoreError]) -> None:
    if issubclass(kind, CartError | StoreError):
        assert kind.code in API_CODES
    else:
        assert kind.code in {"INTERNAL", "CONFIGURATION"}


def test_codes_differ_when_errors_are_raised_by_the_engine() -> None:
    codes = [kind.code for kind in LEAVES if issubclass(kind, CartError) and kind is not errors.InvalidField]

    assert len(codes) == len(set(codes))


def test_message_is_the_given_one_when_there_is_one() -> None:
    error = InsufficientStock("Only 2 left.", sku="tee", available_quantity=2, requested_quantity=3)

    assert str(error) == "Only 2 left."
    assert (error.sku, error.available_quantity, error.requested_quantity) == ("tee", 2, 3)
    assert (error.field, error.line_id, error.shortfalls) == (None, None, None)


def test_version_conflict_tells_the_version_when_it_is_raised() -> None:
    assert VersionConflict(41).version == 41


def test_not_applied_and_unknown_are_told_apart_when_the_store_fails() -> None:
    assert issubclass(errors.StoreRecovering, errors.StoreUnavailable)
    assert issubclass(errors.StoreFull, errors.StoreUnavailable)
    assert not issubclass(errors.OutcomeUnknown, errors.StoreUnavailable)
    assert not issubclass(errors.StoreUnavailable, CartError)
