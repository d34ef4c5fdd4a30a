"""Sale prices: when they hold, and what the engine is told of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cartstore.catalog.sales import engine_sale, price_minor_at, sale_problems
from cartstore.model import Variant


def variant(
    sale_price_minor: int | None = 800, sale_from: str | None = None, sale_to: str | None = None
) -> Variant:
    return Variant(
        sku="tee",
        price_minor=1_000,
        sale_price_minor=sale_price_minor,
        sale_from=sale_from,
        sale_to=sale_to,
    )


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


@pytest.mark.parametrize(
    ("on_sale", "at", "price_minor"),
    [
        (variant(None, "2030-06-15", "2030-06-16"), "2030-06-15T12:00", 1_000),
        (variant(), "2030-06-15T12:00", 800),
        (variant(1_200), "2030-06-15T12:00", 1_000),
        (variant(1_200, "2030-06-15"), "2030-06-15T12:00", 1_000),
        (variant(800, "2030-06-15"), "2030-06-14T23:59:59.999", 1_000),
        (variant(800, "2030-06-15"), "2030-06-15T00:00", 800),
        (variant(800, None, "2030-06-15"), "2030-06-15T23:59:59.999", 800),
        (variant(800, None, "2030-06-15"), "2030-06-16T00:00", 1_000),
        (variant(800, None, "2030-06-15T10:00"), "2030-06-15T09:59:59.999", 800),
        (variant(800, None, "2030-06-15T10:00"), "2030-06-15T10:00", 1_000),
        (variant(800, "2030-06-15T10:00+02:00"), "2030-06-15T07:59:59.999", 1_000),
        (variant(800, "2030-06-15T10:00+02:00"), "2030-06-15T08:00", 800),
        (variant(800, "1000-01-01", "1960-01-01"), "2030-06-15", 1_000),
        (variant(800, None, "9999-12-31"), "2030-06-15", 800),
    ],
)
def test_price_is_the_sale_price_within_its_times(on_sale: Variant, at: str, price_minor: int) -> None:
    assert not list(sale_problems(on_sale, "variants[0]"))
    assert price_minor_at(on_sale, ms(at)) == price_minor


@pytest.mark.parametrize(
    "without_dates", [variant(), variant(None), variant(None, "2030-06-15"), variant(1_000)]
)
def test_engine_is_told_no_sale_where_no_clock_decides(without_dates: Variant) -> None:
    assert engine_sale(without_dates).sale_price_minor is None


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (variant(-1), "v.sale_price"),
        (variant(10**12), "v.sale_price"),
        (variant(800, "soon"), "v.sale_from"),
        (variant(800, None, "2030-02-30"), "v.sale_to"),
        (variant(800, "2030-06-16", "2030-06-15"), "v.sale_to"),
        (variant(800, "2030-06-16T10:00", "2030-06-16T10:00"), "v.sale_to"),
    ],
)
def test_problems_name_the_field_that_is_wrong(wrong: Variant, field: str) -> None:
    assert [problem.field for problem in sale_problems(wrong, "v")] == [field]
