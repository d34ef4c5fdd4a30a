"""Money as text and as minor units. Owns the ISO 4217 exponents; refuses floating point.

The exponent of a currency is the number of decimals of its minor unit (ISO 4217, list one): a yen has
none, a dollar two, a Kuwaiti dinar three.
"""

from __future__ import annotations

import re
from typing import Final

from cartstore.errors import InvalidField
from cartstore.limits import PRICE_MINOR_MAX

_CODES_BY_EXPONENT: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD"
        " CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP"
        " GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD"
        " MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP"
        " PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT"
        " TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

EXPONENTS: Final[dict[str, int]] = {
    code: exponent for exponent, codes in _CODES_BY_EXPONENT.items() for code in codes.split()
}

_CENTS: Final = tuple(f".{cents:02d}" for cents in range(100))

_AMOUNT = re.compile(r"(?P<units>[0-9]{1,18})(?:\.(?P<decimals>[0-9]{1,18}))?\Z")


def exponent_of(currency: str) -> int:
    """Decimals of the currency's minor unit. Raises InvalidField (currency) for an unknown code."""
    exponent = EXPONENTS.get(currency)
    if exponent is None:
        raise InvalidField(f"{currency[:8]!r} is not an ISO 4217 currency code.", field="currency")
    return exponent


def to_minor(text: str, currency: str, *, maximum: int = PRICE_MINOR_MAX, field: str = "price") -> int:
    """`"149.97"` in USD as 14997, and so `"149.970"`. Digits with at most one point; no sign, no grouping, no
    exponent.

    Raises InvalidField: `field` for a text that is no such amount, has more decimals than the currency
    (zeros at the end apart), or is above `maximum` minor units; `currency` for an unknown code.
    """
    exponent = exponent_of(currency)
    match = _AMOUNT.match(text)
    if match is None:
        raise InvalidField(f'{_shown(text)} is not an amount like "{to_text(1999, currency)}".', field=field)
    decimals = match["decimals"] or ""
    if decimals[exponent:].strip("0"):
        allowed = f"{exponent} decimals" if exponent else "no decimals"
        raise InvalidField(
            f"{_shown(text)} has {len(decimals)} decimals; {currency} has {allowed}.", field=field
        )
    minor: int = int(match["units"]) * 10**exponent + int(decimals[:exponent].ljust(exponent, "0") or "0")
    if minor > maximum:
        raise InvalidField(f"{_shown(text)} is above {to_text(maximum, currency)} {currency}.", field=field)
    return minor


def to_text(minor: int, currency: str) -> str:
    """14997 in USD as `"149.97"`: always with the currency's decimals. Raises InvalidField (currency)."""
    exponent = EXPONENTS.get(currency)
    if exponent == 2 and minor >= 0:
        # Nearly every amount of nearly every shop, many times in each answer.
        return f"{minor // 100}{_CENTS[minor % 100]}"
    if exponent is None:
        exponent = exponent_of(currency)
    sign, digits = ("-" if minor < 0 else ""), str(abs(minor))
    if exponent == 0:
        return sign + digits
    digits = digits.rjust(exponent + 1, "0")
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
