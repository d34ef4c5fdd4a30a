"""The request headers that make a mutation conditional or repeatable. Owns their syntax."""

from __future__ import annotations

import re
from typing import Any

from litestar import Request

from cartstore import limits
from cartstore.model import Guard
from cartstore_api.problems import ProblemError

_VERSION = re.compile(r'(?:W/)?(?P<quote>"?)(?P<version>[0-9]{1,16})(?:-[A-Za-z0-9]{1,64})?(?P=quote)\Z')
_QUOTED = re.compile(r'"(?P<key>(?:[^"\\]|\\["\\])*)"\Z')
_ESCAPE = re.compile(r"\\(.)")
_VISIBLE = re.compile(r"[\x20-\x7e]*\Z")


def guard_of(request: Request[Any, Any, Any]) -> Guard:
    """What the mutation is conditional on. Raises VALIDATION_FAILED."""
    return Guard(idempotency_key=idempotency_key_of(request), if_match=if_match_of(request))


def if_match_of(request: Request[Any, Any, Any]) -> int | None:
    """The version that `If-Match` names: of a whole ETag, quoted or bare, only the version counts."""
    value = (request.headers.get("if-match") or "").strip()
    if value in ("", "*"):
        return None
    match = _VERSION.match(value)
    if match is None:
        raise ProblemError(
            "VALIDATION_FAILED", 'If-Match must be one ETag of the cart or "<version>".', field="If-Match"
        )
    return int(match["version"])


def idempotency_key_of(request: Request[Any, Any, Any]) -> str | None:
    """The key, the same quoted or bare; an empty one is absent."""
    value = (request.headers.get("idempotency-key") or "").strip()
    if value.startswith('"'):
        match = _QUOTED.match(value)
        if match is None:
            raise _bad_key("its quotes do not match")
        value = _ESCAPE.sub(r"\1", match["key"])
    if not value:
        return None
    if len(value) > limits.IDEMPOTENCY_KEY_LENGTH_MAX:
        raise _bad_key(f"it may have at most {limits.IDEMPOTENCY_KEY_LENGTH_MAX} characters")
    if not _VISIBLE.match(value):
        raise _bad_key("it may have visible ASCII characters only")
    return value


def required_idempotency_key_of(request: Request[Any, Any, Any]) -> str:
    """As above. Raises IDEMPOTENCY_KEY_REQUIRED when it is absent."""
    key = idempotency_key_of(request)
    if key is None:
        raise ProblemError(
            "IDEMPOTENCY_KEY_REQUIRED",
            "Send an Idempotency-Key of your own making: repeated with it, the call is answered once.",
            field="Idempotency-Key",
        )
    return key


def wants_representation(request: Request[Any, Any, Any]) -> bool:
    """Whether `Prefer: return=representation` was sent."""
    for value in request.headers.getall("prefer", []):
        for preference in value.split(","):
            name = preference.partition(";")[0].replace(" ", "").replace('"', "").lower()
            if name == "return=representation":
                return True
    return False


def matches_etag(request: Request[Any, Any, Any], etag: str) -> bool:
    """Whether `If-None-Match` names this ETag (weak comparison)."""
    sent = request.headers.get("if-none-match")
    if sent is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in sent.split(",")]
    return etag in tags or "*" in tags


def _bad_key(reason: str) -> ProblemError:
    return ProblemError("VALIDATION_FAILED", f"Idempotency-Key: {reason}.", field="Idempotency-Key")
