"""What is kept with a checkout as it came: contact, addresses and metadata. Owns how it is read again.

The details are JSON text whose members the REST API checks and the library does not. So each member is read
by itself, and one that is no contact or address is named instead of failing the whole order.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cartstore.errors import InvalidField
from cartstore.limits import TEXT_LENGTH_MAX

_NUL: Final = "\x00"
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Contact(msgspec.Struct, kw_only=True):
    """How to reach the buyer."""

    email: str | None = None
    phone: str | None = None


class Address(msgspec.Struct, kw_only=True):
    """A postal address."""

    name: str | None = None
    phone: str | None = None
    street: str
    street2: str | None = None
    city: str
    state: str | None = None
    postal_code: str | None = None
    country: str


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """The details of a checkout. `metadata_json` is a JSON object, as it came; `unreadable` names members
    that are stored but cannot be read."""

    contact: Contact | None = None
    shipping_address: Address | None = None
    billing_address: Address | None = None
    metadata_json: str | None = None
    unreadable: tuple[str, ...] = ()


_TYPES: Final[dict[str, Any]] = {
    "contact": Contact,
    "shipping_address": Address,
    "billing_address": Address,
}
MEMBERS: Final = (*_TYPES, "metadata")


def details_in(details_json: str) -> Details:
    """What is stored with a checkout. Raises nothing."""
    try:
        stored = _decode(details_json) if details_json else {}
    except (msgspec.DecodeError, UnicodeError):
        return Details(unreadable=MEMBERS)
    found: dict[str, Any] = {}
    unreadable: list[str] = []
    for name, kind in _TYPES.items():
        if name in stored:
            try:
                found[name] = msgspec.json.decode(stored[name], type=kind | None)
            except (msgspec.DecodeError, UnicodeError):
                unreadable.append(name)
    metadata = bytes(stored["metadata"]).decode() if "metadata" in stored else None
    return Details(
        **found, metadata_json=None if metadata == "null" else metadata, unreadable=tuple(unreadable)
    )


def email_in(details_json: str) -> str | None:
    """The address that an order is found by; None when there is none that could be."""
    contact = details_in(details_json).contact
    return normalised_email(contact.email) if contact is not None and contact.email else None


def normalised_email(email: str) -> str | None:
    """The form that addresses are compared in: trimmed, in lower case. None for a blank one."""
    email = email.strip().lower()
    if not email or len(email) > TEXT_LENGTH_MAX or _NUL in email or not email.isprintable():
        return None
    return email


def wanted_email(email: str) -> str:
    """The same for an address that orders are searched by. Raises InvalidField."""
    found = normalised_email(email)
    if found is None:
        raise InvalidField("email must be an e-mail address.", field="email")
    return found
