"""The Protocol that every gateway module fulfils."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from cartstore.model import Payment

Verdict = Literal["succeeded", "failed", "pending"]


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified webhook says of one payment."""

    payment_id: str
    verdict: Verdict


class Gateway(Protocol):
    """One payment provider."""

    name: str

    def client_fields(self, payment: Payment) -> dict[str, str]:
        """What the buyer's client needs to start paying (a URL, a client secret); no server secret."""
        ...

    def confirm(self, payment: Payment, fields: Mapping[str, object]) -> Verdict:
        """Judge what the buyer brings back from the gateway's own page."""
        ...

    def read_webhook(self, headers: Mapping[str, str], body: bytes) -> Notification | None:
        """Verify the signature over the raw body and read it; None when the signature is not valid.

        Raises InvalidField when a validly signed body is not a notification.
        """
        ...
