"""A sale price and the times between which it holds. Owns how they are written and when they hold; the engine
decides by its own clock (SkuFields), a product page by the clock of its process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cartstore.errors import InvalidField
from cartstore.limits import PRICE_MINOR_MAX
from cartstore.model import Variant

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_DAY_MS: Final = 86_400_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def sale_problems(variant: Variant, at: str) -> Iterator[InvalidField]:
    """What is wrong with a variant's sale. `at`: its place in the product, as REST spells it."""
    price_minor = variant.sale_price_minor
    if price_minor is not None and not 0 <= price_minor <= PRICE_MINOR_MAX:
        yield InvalidField(
            f"{at}.sale_price must be 0 to {PRICE_MINOR_MAX} minor units.", field=f"{at}.sale_price"
        )
    try:
        _from_ms(variant.sale_from)
    except ValueError:
        yield InvalidField("sale_from must be an ISO 8601 date or time.", field=f"{at}.sale_from")
        return
    try:
        _to_ms(variant.sale_to)
    except ValueError:
        yield InvalidField("sale_to must be an ISO 8601 date or time.", field=f"{at}.sale_to")
        return
    if is_never(variant.sale_from, variant.sale_to):
        yield InvalidField("The sale ends before it begins.", field=f"{at}.sale_to")


def is_never(sale_from: str | None, sale_to: str | None) -> bool:
    """Whether a sale with these times ends before it begins. Raises ValueError for what is no time."""
    to_ms = _to_ms(sale_to)
    return to_ms != 0 and to_ms <= _from_ms(sale_from)


class EngineSale(NamedTuple):
    """Prices and times of a variant as the engine wants them (SkuFields)."""

    price_minor: int
    sale_price_minor: int | None
    from_ms: int
    to_ms: int


def engine_sale(variant: Variant) -> EngineSale:
    """The sale of a variant that `sale_problems` found nothing wrong with.

    A sale price without dates is given as the price, and one that is not lower as none: only a SKU whose
    price depends on the time costs the engine more.
    """
    price_minor, sale_minor = variant.price_minor, variant.sale_price_minor
    if sale_minor is None or sale_minor >= price_minor:
        return EngineSale(price_minor, None, 0, 0)
    from_ms, to_ms = _from_ms(variant.sale_from), _to_ms(variant.sale_to)
    if from_ms == 0 and to_ms == 0:
        return EngineSale(sale_minor, None, 0, 0)
    return EngineSale(price_minor, sale_minor, from_ms, to_ms)


def price_minor_at(variant: Variant, now_ms: int) -> int:
    """The price of a variant at a time (ms), in minor units."""
    sale = engine_sale(variant)
    is_on = sale.from_ms <= now_ms and (sale.to_ms == 0 or now_ms < sale.to_ms)
    return sale.sale_price_minor if sale.sale_price_minor is not None and is_on else sale.price_minor


def _from_ms(sale_from: str | None) -> int:
    """Raises ValueError. 0: no start."""
    return max(0, _ms_of(sale_from)) if sale_from else 0


def _to_ms(sale_to: str | None) -> int:
    """Raises ValueError. 0: no end. A date belongs to the sale until it is over."""
    if not sale_to:
        return 0
    return max(1, _ms_of(sale_to) + (_DAY_MS if _DATE.match(sale_to) else 0))


def _ms_of(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MILLISECOND
