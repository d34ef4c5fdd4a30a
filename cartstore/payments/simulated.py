"""The gateway for development and tests: the caller says how the payment went. Refused in production."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Literal

import msgspec

from cartstore.errors import InvalidField
from cartstore.model import Payment
from cartstore.payments.gateway import Notification, Verdict

_SIGNATURE_HEADER = "x-simulated-signature"


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    payment_id: str
    outcome: Literal["succeed", "fail"]


_decode_body = msgspec.json.Decoder(_Body).decode


class SimulatedGateway:
    """Takes no money. Its webhooks are signed with HMAC-SHA256 over the raw body, in hex."""

    name = "simulated"

    def __init__(self, webhook_secret: str) -> None:
        self._webhook_secret = webhook_secret.encode()

    def client_fields(self, payment: Payment) -> dict[str, str]:
        return {"simulate_path": f"/v1/payments/{payment.payment_id}/simulate"}

    def confirm(self, payment: Payment, fields: Mapping[str, object]) -> Verdict:
        outcome = fields.get("outcome")
        if outcome not in ("succeed", "fail"):
            raise InvalidField("outcome must be 'succeed' or 'fail'.", field="outcome")
        return "succeeded" if outcome == "succeed" else "failed"

    def sign(self, body: bytes) -> str:
        """The signature that a webhook with this body carries."""
        return hmac.new(self._webhook_secret, body, hashlib.sha256).hexdigest()

    def read_webhook(self, headers: Mapping[str, str], body: bytes) -> Notification | None:
        signature = headers.get(_SIGNATURE_HEADER, "")
        # compare_digest takes only ASCII text; bytes let any header value be compared in constant time.
        if not hmac.compare_digest(signature.encode(), self.sign(body).encode()):
            return None
        try:
            read = _decode_body(body)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise InvalidField(f"The notification cannot be read: {error}.", field="body") from error
        return Notification(
            payment_id=read.payment_id, verdict="succeeded" if read.outcome == "succeed" else "failed"
        )
