"""The request headers that make a mutation conditional or repeatable. Owns their syntax."""

from __future__ import annotations

import re

import msgspec

from cartstore import limits
from cartstore.catalog.repository import IfMatch
from cartstore.model import NO_GUARD, Guard
from cartstore_api.context import RequestContext
from cartstore_api.problems import ProblemError

_VERSION = re.compile(r'(?:W/)?(?P<quote>"?)(?P<version>[0-9]{1,16})(?:-[A-Za-z0-9]{1,64})?(?P=quote)\Z')
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\Z')
_QUOTED = re.compile(r'"(?P<key>(?:[^"\\]|\\["\\])*)"\Z')
_ESCAPE = re.compile(r"\\(.)")
_VISIBLE = re.compile(r"[\x20-\x7e]*\Z")


def guard_of(context: RequestContext) -> Guard:
    """What the mutation is conditional on. Raises VALIDATION_FAILED.

    Of several versions in `If-Match` the guard has the newest; `narrowed` finds the one that counts.
    """
    if b"idempotency-key" not in context.known and b"if-match" not in context.known:
        return NO_GUARD
    return Guard(idempotency_key=idempotency_key_of(context), if_match=if_match_of(context))


def if_match_of(context: RequestContext) -> int | None:
    """The newest version that `If-Match` names; None when any version will do. Raises VALIDATION_FAILED."""
    versions = versions_of(context)
    return max(versions) if versions else None


def versions_of(context: RequestContext) -> list[int]:
    """The versions that `If-Match` names: of a whole ETag, quoted or bare, only the version counts. Several
    lines of it are one list, and ETags that no cart has are left out. Raises VALIDATION_FAILED."""
    if b"if-match" not in context.known:
        return []
    sent = context.items(b"if-match")
    if not sent or sent == ["*"]:
        return []
    versions = [int(match["version"]) for item in sent if (match := _VERSION.match(item))]
    # An item that is an ETag of something else matches no version of the cart; any other is a mistake.
    if not versions or any(not _VERSION.match(item) and not _ETAG.match(item) for item in sent):
        raise ProblemError(
            "VALIDATION_FAILED",
            'If-Match must be "<version>", an ETag of what is changed, a list of those, or *.',
            field="If-Match",
        )
    return versions


def product_match_of(context: RequestContext) -> IfMatch | None:
    """The revisions that `If-Match` names, `*` for any that is there, None without the header. Raises
    VALIDATION_FAILED."""
    if b"if-match" not in context.known:
        return None
    sent = context.items(b"if-match")
    return "*" if sent == ["*"] else versions_of(context) if sent else None


def names_several_versions(context: RequestContext) -> bool:
    """Whether the version in a guard of this request is one of several."""
    return len(versions_of(context)) > 1


def narrowed(guard: Guard, context: RequestContext, version: int) -> Guard:
    """The guard of a request whose `If-Match` names several versions, when the cart has this one: it is the
    one to be checked with the write. When it is not named, the newest that is named stays, and the script
    refuses it unless the cart has become that in between."""
    if version in versions_of(context):
        return msgspec.structs.replace(guard, if_match=version)
    return guard


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
    return any(
        preference.partition(";")[0].replace(" ", "").replace('"', "").lower() == "return=representation"
        for preference in context.items(b"prefer")
    )


def matches_etag(context: RequestContext, etag: bytes) -> bool:
    """Whether `If-None-Match` names this ETag (weak comparison); several lines of it are one list."""
    if b"if-none-match" not in context.known:
        return False
    wanted = etag.decode("latin-1")
    return any(tag == "*" or tag.removeprefix("W/") == wanted for tag in context.items(b"if-none-match"))


def _bad_key(reason: str) -> ProblemError:
    return ProblemError("VALIDATION_FAILED", f"Idempotency-Key: {reason}.", field="Idempotency-Key")
