"""By what a purchase limit knows a customer: the cart, and a digest each of e-mail address and phone number.

Owns how the two are normalised. A digest is an HMAC under a secret of the record's own, so that the engine
keeps no personal data, and nobody who reads its keys can try addresses out. The secret never changes: what
was bought under another one would be forgotten.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

DIGEST_LENGTH: Final = 32

PHONE_DIGITS_MIN: Final = 5
"""A text with fewer digits is no phone number, and names nobody."""

_DOTLESS_DOMAINS: Final = {"gmail.com": "gmail.com", "googlemail.com": "gmail.com"}
"""Where dots in the local part mean nothing, and what the domain is called."""


def contact_identities(secret: bytes, contact: object) -> tuple[str, ...]:
    """The identities that a checkout's contact gives; none without an e-mail address or a phone number."""
    if not isinstance(contact, Mapping):
        return ()
    email, phone = normal_email(_text(contact.get("email"))), normal_phone(_text(contact.get("phone")))
    found = []
    if email:
        found.append(f"e.{_digest(secret, 'email', email)}")
    if len(phone) >= PHONE_DIGITS_MIN:
        found.append(f"t.{_digest(secret, 'phone', phone)}")
    return tuple(found)


def names_somebody(contact: object) -> bool:
    """Whether a contact gives any identity."""
    return bool(contact_identities(b"", contact))


def normal_email(address: str) -> str:
    """One spelling of the addresses that reach one mailbox: without case, blanks, and a tag (`ann+shop@`)."""
    text = unicodedata.normalize("NFKC", address).strip().casefold()
    local, mark, domain = text.rpartition("@")
    if not mark:
        return text
    with suppress(UnicodeError):
        domain = domain.encode("idna").decode()
    local = local.partition("+")[0] or local
    if domain in _DOTLESS_DOMAINS:
        local, domain = local.replace(".", "") or local, _DOTLESS_DOMAINS[domain]
    return f"{local}@{domain}"


def normal_phone(number: str) -> str:
    """The digits of a number, without an international prefix (`+` or `00`) and a national one in parentheses
    (`+44 (0)20`)."""
    digits = "".join(
        str(digit)
        for sign in number.replace("(0)", "")
        if (digit := unicodedata.digit(sign, None)) is not None
    )
    return digits.removeprefix("00")


def _digest(secret: bytes, kind: str, text: str) -> str:
    return hmac.new(secret, f"{kind}\x1f{text}".encode(), hashlib.sha256).hexdigest()[:DIGEST_LENGTH]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
