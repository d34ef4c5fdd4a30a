"""Money as text and as minor units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartstore.catalog.money import EXPONENTS, exponent_of, to_minor, to_text
from cartstore.errors import InvalidField
from cartstore.limits import PRICE_MINOR_MAX, TOTAL_MINOR_MAX

CURRENCIES = st.sampled_from(sorted(EXPONENTS))


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("149.97", "USD", 14_997),
        ("149.9", "USD", 14_990),
        ("149", "USD", 14_900),
        ("0.05", "EUR", 5),
        ("0", "EUR", 0),
        ("007.50", "EUR", 750),
        ("1500", "JPY", 1_500),
        ("1.234", "KWD", 1_234),
        ("1.2", "KWD", 1_200),
        ("1.2345", "CLF", 12_345),
        ("1000000000.00", "USD", PRICE_MINOR_MAX),
    ],
)
def test_to_minor_reads_amounts(text: str, currency: str, minor: int) -> None:
    assert to_minor(text, currency) == minor


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-1", "+1", "1e3", "1E3", ".5", "5.", "1,50", "1.299,00", "1,299.00", "1_000", "0x10"),
        *("1.2.3", "NaN", "Infinity", "1 ", " 1", "1\n", "$1", "1 USD", "١٢", "１２", "1.٥", "²", "9" * 40),
    ],
)
def test_to_minor_refuses_what_is_no_amount(text: str) -> None:
    with pytest.raises(InvalidField) as caught:
        to_minor(text, "USD", field="expected_total")

    assert caught.value.field == "expected_total"


@pytest.mark.parametrize(
    ("text", "currency"), [("1.999", "USD"), ("1.001", "USD"), ("1.1", "JPY"), ("1.0001", "KWD")]
)
def test_to_minor_refuses_more_decimals_than_the_currency_has(text: str, currency: str) -> None:
    with pytest.raises(InvalidField, match="decimals"):
        to_minor(text, currency)


def test_to_minor_refuses_more_than_the_maximum() -> None:
    with pytest.raises(InvalidField, match=r"above 1000000000\.00 USD"):
        to_minor("1000000000.01", "USD")

    assert to_minor("1000000000.01", "USD", maximum=TOTAL_MINOR_MAX) == PRICE_MINOR_MAX + 1


@pytest.mark.parametrize("currency", ["", "usd", "US", "USDT", "XAU", "ABC"])
def test_money_refuses_an_unknown_currency(currency: str) -> None:
    for call in (
        lambda: to_minor("1", currency),
        lambda: to_text(1, currency),
        lambda: exponent_of(currency),
    ):
        with pytest.raises(InvalidField) as caught:
            call()
        assert caught.value.field == "currency"


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (14_997, "USD", "149.97"),
        (5, "USD", "0.05"),
        (0, "USD", "0.00"),
        (-5, "USD", "-0.05"),
        (1_500, "JPY", "1500"),
        (-1_500, "JPY", "-1500"),
        (1, "KWD", "0.001"),
        (12_345, "CLF", "1.2345"),
    ],
)
def test_to_text_writes_all_decimals(minor: int, currency: str, text: str) -> None:
    assert to_text(minor, currency) == text


@given(minor=st.integers(0, TOTAL_MINOR_MAX), currency=CURRENCIES)
def test_to_minor_is_the_inverse_of_to_text(minor: int, currency: str) -> None:
    assert to_minor(to_text(minor, currency), currency, maximum=TOTAL_MINOR_MAX) == minor


@given(text=st.text(), currency=CURRENCIES)
def test_to_minor_gives_an_amount_in_range_or_refuses(text: str, currency: str) -> None:
    try:
        minor = to_minor(text, currency)
    except InvalidField:
        return

    assert 0 <= minor <= PRICE_MINOR_MAX


@given(units=st.integers(0, 10**6), decimals=st.integers(0, 99), cents=st.integers(0, 10**8))
def test_to_minor_keeps_order_and_adds_up(units: int, decimals: int, cents: int) -> None:
    amount = to_minor(f"{units}.{decimals:02d}", "USD")

    assert amount == units * 100 + decimals
    assert (amount < cents) == (to_minor(to_text(cents, "USD"), "USD") > amount)


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("12.500", "USD", 1_250),
        ("12.5000000000", "USD", 1_250),
        ("1200.00", "JPY", 1_200),
        ("1.2340", "KWD", 1_234),
        ("0.000", "USD", 0),
    ],
)
def test_to_minor_takes_zeros_beyond_the_currencys_decimals(text: str, currency: str, minor: int) -> None:
    assert to_minor(text, currency) == minor
