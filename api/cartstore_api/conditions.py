"""The request headers that make a mutation conditional or repeatable. Owns their syntax."""

from __future__ import annotations

import re

from cartstore import limits
from cartstore.model import NO_GUARD, Guard
from cartstore_api.context import RequestContext
from cartstore_api.problems import ProblemError

_VERSION = re.compile(r'(?:W/)?(?P<quote>"?)(?P<version>[0-9]{1,16})(?:-[A-Za-z0-9]{1,64})?(?P=quote)\Z')
_QUOTED = re.compile(r'"(?P<key>(?:[^"\\]|\\["\\])*)"\Z')
_ESCAPE = re.compile(r"\\(.)")
_VISIBLE = re.compile(r"[\x20-\x7e]*\Z")


def guard_of(context: RequestContext) -> Guard:
    """What the mutation is conditional on. Raises VALIDATION_FAILED."""
    if b"idempotency-key" not in context.known and b"if-match" not in context.known:
        return NO_GUARD
    return Guard(idempotency_key=idempotency_key_of(context), if_match=if_match_of(context))


def if_match_of(context: RequestContext) -> int | None:
    """The version that `If-Match` names: of a whole ETag, quoted or bare, only the version counts."""
    value = (context.text(b"if-match") or "").strip()
    if value in ("", "*"):
        return None
    match = _VERSION.match(value)
    if match is None:
        raise ProblemError(
            "VALIDATION_FAILED", 'If-Match must be one ETag of the cart or "<version>".', field="If-Match"
        )
    return int(match["version"])


def idempotency_key_of(context: RequestContext) -> str | None:
    """The key, the same quoted or bare; an empty one is absent."""
    value = (context.text(b"idempotency-key") or "").strip()
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


def required_idempotency_key_of(context: RequestContext) -> str:
    """As above. Raises IDEMPOTENCY_KEY_REQUIRED when it is absent."""
    key = idempotency_key_of(context)
    if key is None:
        raise ProblemError(
            "IDEMPOTENCY_KEY_REQUIRED",
            "Send an Idempotency-Key of your own making: repeated with it, the call is answered once.",
            field="Idempotency-Key",
        )
    return key


def wants_representation(context: RequestContext) -> bool:
    """Whether `Prefer: return=representation` was sent."""
    for value in context.texts(b"prefer"):
        for preference in value.split(","):
            name = preference.partition(";")[0].replace(" ", "").replace('"', "").lower()
            if name == "return=representation":
                return True
    return False


def matches_etag(context: RequestContext, etag: bytes) -> bool:
    """Whether `If-None-Match` names this ETag (weak comparison)."""
    sent = context.known.get(b"if-none-match")
    if sent is None:
        return False
    tags = [tag.strip().removeprefix(b"W/") for tag in sent.split(b",")]
    return etag in tags or b"*" in tags


def _bad_key(reason: str) -> ProblemError:
    return ProblemError("VALIDATION_FAILED", f"Idempotency-Key: {reason}.", field="Idempotency-Key")
