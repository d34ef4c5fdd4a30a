"""Who is calling: access tokens, guest tokens, order tokens, and requests from other sites.

Owns every signature that the API checks or makes, except those of payment gateways. All keys derive from
the one JWT secret, each by its own label, so that no token can be presented as one of another kind.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from typing import Generic, TypeVar

import jwt
import msgspec

from cartstore.errors import ConfigurationError, FeatureOff, Forbidden, Unauthenticated
from cartstore.model import Owner, Partition
from cartstore.origins import authority_of, origin_of
from cartstore.settings import Settings
from cartstore_api.context import RequestContext
from cartstore_api.problems import ProblemError

LEEWAY_SECONDS = 5
"""Clocks of issuer and service may differ by this much."""

_BEARER = re.compile(rb"\s*bearer +([A-Za-z0-9._~+/=-]{1,4096})\s*\Z", re.IGNORECASE)
_SCHEME_LENGTH = len("Bearer ")
_USER_ID_LENGTH_MAX = 128
_VERIFIED_MAX = 16_384
"""Access tokens that are remembered as verified, and as many tokens of guests; the half that was used last is
never forgotten for another."""
_VERIFIED_BYTES_MAX = 16 * 1024 * 1024
"""Bytes that remembered access tokens may take, and as many those of guests, by the same halves."""
_ENTRY_BYTES = 1_024
"""What one remembered token takes beside its own length, at most: owner, claims and places in tables."""

SCOPES = frozenset({"admin", "catalog:write", "stock:write", "ops:read"})
"""The scopes that mean something here. Others in a token are not kept: thousands of them fit into one."""

_GUEST_TOKEN = re.compile(rb"(?:[A-Za-z0-9_-]{52}|[A-Za-z0-9_-]{56})\Z")
"""Version (1 byte), partition (2), identity (16), time of issue (5) and MAC (18). The form before, which is
still read, has neither version nor partition, and is told by its length."""
_TOKEN_VERSION = 1
_PARTITION_BYTES = 2
_HEAD_BYTES = 1 + _PARTITION_BYTES
_RANDOM_BYTES = 16
_ISSUED_BYTES = 5
_MAC_BYTES = 18
_RENEW_AFTER_SECONDS = 86_400
"""A guest token is issued again when it is older. It lives that much longer than the cart, so that it
never dies before the inactivity that the setting promises."""

UNKNOWN_GUEST = Owner("guest", "none")
"""A guest that has no cart yet: reads as an empty cart, and no token ever names it."""


T = TypeVar("T")


class Recent(Generic[T]):
    """What was found out about the tokens that were used last, at most _VERIFIED_MAX of them and
    _VERIFIED_BYTES_MAX bytes. Only what was verified is put in: nothing is known of a token that is missing.

    Two generations: what is used again moves to the young one; when that is full it becomes the old one, and
    what was not used since the last time is forgotten. So a use costs one look-up, and nothing is reordered.
    """

    __slots__ = ("_old", "_young", "_young_bytes")

    def __init__(self) -> None:
        self._young: dict[bytes, T] = {}
        self._old: dict[bytes, T] = {}
        self._young_bytes = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def find(self, token: bytes) -> T | None:
        """What is known of a token; None when nothing is."""
        found = self._young.get(token)
        if found is None:
            found = self._old.pop(token, None)
            if found is not None:
                self.remember(token, found)
        return found

    def remember(self, token: bytes, found: T) -> None:
        """Keep what was verified."""
        weight = len(token) + _ENTRY_BYTES
        if self._young and self._young_bytes + weight > _VERIFIED_BYTES_MAX // 2:
            self._begin_generation()
        # A token that is forgotten or put in again is counted twice: the generation ends sooner.
        self._young[token] = found
        self._young_bytes += weight
        if len(self._young) >= max(1, _VERIFIED_MAX // 2):
            self._begin_generation()

    def _begin_generation(self) -> None:
        self._old, self._young = self._young, {}
        self._young_bytes = 0

    def forget(self, token: bytes) -> None:
        """Look at it anew the next time."""
        self._young.pop(token, None)
        self._old.pop(token, None)


class Claims(msgspec.Struct, frozen=True):
    """What a verified access token says; times in seconds since the epoch."""

    owner: Owner
    scopes: frozenset[str]
    expires_at: float
    not_before: float

    def allows(self, scope: str) -> bool:
        return "admin" in self.scopes or scope in self.scopes


class Callers:
    """Tells who sent a request, and issues what guests need to be known again."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError without a secret."""
        if not settings.jwt_secret:
            raise ConfigurationError("CARTSTORE_JWT_SECRET is needed to serve the API.")
        self._settings = settings
        self._guest_key = _derived(settings.jwt_secret, "guest token")
        self._order_key = _derived(settings.jwt_secret, "order token")
        partition = Partition(settings.namespace)
        self._guest_head = bytes([_TOKEN_VERSION]) + partition.index.to_bytes(_PARTITION_BYTES, "big")
        self._verified: Recent[Claims] = Recent()
        """By the whole header, or by the token of a padded one. It belongs to this object's secret: another
        secret has another object."""

        self._guests: Recent[tuple[Owner, bytes, int]] = Recent()
        self._guest_ttl_seconds = settings.guest_cart_ttl_days * 86_400 + _RENEW_AFTER_SECONDS
        prefix = "__Host-" if settings.is_production else ""
        self.cookie_name = prefix + settings.guest_cookie
        self._cookie_name = self.cookie_name.encode()
        self._cookie_tail = f"; Path=/; Max-Age={self._guest_ttl_seconds}; HttpOnly; SameSite=Lax" + (
            "; Secure" if settings.is_production else ""
        )
        public_origin = settings.public_origin
        self._has_public_origin = public_origin is not None
        self._own_origins = frozenset(
            origin.encode() for origin in (public_origin, *settings.allowed_origins) if origin
        )
        """Origins whose pages may act for the guest of a cookie."""

    # --- access tokens -------------------------------------------------------------------------

    def claims_of(self, context: RequestContext) -> Claims | None:
        """The verified access token; None when none was sent. Raises Unauthenticated for any other."""
        if context.claims is not None:
            return context.claims
        authorization = context.known.get(b"authorization")
        if authorization is None:
            return None
        claims = self._verified.find(authorization)
        if claims is None:
            match = _BEARER.match(authorization)
            if match is None:
                raise Unauthenticated("Send `Authorization: Bearer <token>`.")
            token = match[1]
            if len(authorization) != _SCHEME_LENGTH + len(token):
                # Padded: known by its token, so that no header of 32 KiB is kept, and none for each padding.
                authorization = token
                claims = self._verified.find(token)
            if claims is None:
                claims = self._verify(token)
                self._verified.remember(authorization, claims)
        # Looked at on every use: a token that was verified once expires all the same.
        now = time.time()
        if claims.expires_at + LEEWAY_SECONDS <= now:
            self._verified.forget(authorization)
            raise Unauthenticated("The token has expired.")
        if claims.not_before - LEEWAY_SECONDS > now:
            raise Unauthenticated("The token is not valid.")
        context.claims = claims
        return claims

    def require(self, context: RequestContext, scope: str) -> Claims:
        """The access token, which must have this scope. Raises Unauthenticated, Forbidden."""
        claims = self.claims_of(context)
        if claims is None:
            raise Unauthenticated()
        if not claims.allows(scope):
            raise Forbidden(f"The token lacks the scope {scope}.")
        return claims

    def _verify(self, token: bytes) -> Claims:
        settings = self._settings
        try:
            payload = jwt.decode(
                token,
                settings.jwt_secret,
                algorithms=["HS256"],
                leeway=LEEWAY_SECONDS,
                issuer=settings.jwt_issuer or None,
                audience=settings.jwt_audience or None,
                options={
                    "require": ["exp", "sub", *(["iss"] if settings.jwt_issuer else [])],
                    "verify_aud": bool(settings.jwt_audience),
                },
            )
            user_id, scope, expires_at = payload["sub"], payload.get("scope") or "", float(payload["exp"])
            not_before = float(payload.get("nbf", 0))
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("The token has expired.") from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unauthenticated("The token is not valid.") from error
        if not (
            isinstance(user_id, str) and 0 < len(user_id) <= _USER_ID_LENGTH_MAX and user_id.isprintable()
        ):
            raise Unauthenticated("The token names no user: sub must be 1 to 128 characters.")
        if not isinstance(scope, str):
            raise Unauthenticated("The token's scope must be a text.")
        return Claims(Owner("user", user_id), SCOPES.intersection(scope.split()), expires_at, not_before)

    # --- owners --------------------------------------------------------------------------------

    def reader(self, context: RequestContext) -> Owner:
        """Whose things may be read; UNKNOWN_GUEST for a guest without a living token."""
        claims = self.claims_of(context)
        if claims is not None:
            return claims.owner
        found = self._guest_of_request(context)
        return found[0] if found is not None else UNKNOWN_GUEST

    def actor(self, context: RequestContext) -> Owner:
        """As `reader`, for a mutation of what exists already: another site may not send it."""
        owner = self.reader(context)
        if owner.is_guest:
            self._refuse_other_sites(context)
        return owner

    def mutator(self, context: RequestContext) -> Owner:
        """Whose cart may be changed: a guest without a living token gets a fresh one with the answer.

        Raises Unauthenticated, FeatureOff (guests, while they have no carts), CSRF_FAILED.
        """
        claims = self.claims_of(context)
        if claims is not None:
            return claims.owner
        if self._settings.guest_carts == "off":
            raise FeatureOff("Guests have no carts here: sign in.")
        self._refuse_other_sites(context)
        found = self._guest_of_request(context)
        if found is None:
            identity = secrets.token_bytes(_RANDOM_BYTES)
            self._issue(context, identity)
            return _guest_of(identity)
        owner, identity, issued_at = found
        if time.time() - issued_at > _RENEW_AFTER_SECONDS:
            self._issue(context, identity)
        return owner

    def new_guest(self, context: RequestContext) -> tuple[str, float]:
        """A new identity, stored nowhere: its token, and when that expires (seconds since the epoch).

        Raises FeatureOff, CSRF_FAILED.
        """
        if self._settings.guest_carts == "off":
            raise FeatureOff("Guests have no carts here: sign in.")
        self._refuse_other_sites(context)
        return self._issue(context, secrets.token_bytes(_RANDOM_BYTES))

    def _issue(self, context: RequestContext, identity: bytes) -> tuple[str, float]:
        """Send a token of this identity, as header and cookie, with whatever the answer is."""
        now = time.time()
        signed = self._guest_head + identity + int(now).to_bytes(_ISSUED_BYTES, "big")
        token = base64.urlsafe_b64encode(signed + self._mac(signed)).decode()
        context.headers += [
            (b"cart-token", token.encode()),
            (b"set-cookie", f"{self.cookie_name}={token}{self._cookie_tail}".encode()),
        ]
        return token, now + self._guest_ttl_seconds

    def _guest_of_request(self, context: RequestContext) -> tuple[Owner, bytes, int] | None:
        """What the token in `X-Cart-Token` says, else the first cookie of our name whose token verifies.

        A browser sends cookies of one name for several paths or domains, and a page of a sibling domain can
        put one beside ours: one that does not verify must not hide the one that does.
        """
        known = context.known
        sent = known.get(b"x-cart-token")
        if sent:
            return self._read_guest_token(sent)
        if b"cookie" not in known:
            return None
        wanted = self._cookie_name
        for cookies in context.values(b"cookie"):
            for cookie in cookies.split(b";"):
                name, separator, value = cookie.partition(b"=")
                if separator and name.strip() == wanted:
                    found = self._read_guest_token(value.strip().strip(b'"'))
                    if found is not None:
                        return found
        return None

    def _read_guest_token(self, token: bytes) -> tuple[Owner, bytes, int] | None:
        """Owner, identity and time of issue; None for a token that we did not sign or that is dead."""
        if not token:
            return None
        found = self._guests.find(token)
        if found is None:
            if not _GUEST_TOKEN.match(token):
                return None
            decoded = base64.urlsafe_b64decode(token)
            signed, mac = decoded[:-_MAC_BYTES], decoded[-_MAC_BYTES:]
            if not hmac.compare_digest(mac, self._mac(signed)):
                return None
            if len(signed) > _RANDOM_BYTES + _ISSUED_BYTES:
                if not signed.startswith(self._guest_head):
                    # Of a later version, or of a partition that this deployment has not.
                    return None
                signed = signed[_HEAD_BYTES:]
            identity, issued_at = signed[:_RANDOM_BYTES], int.from_bytes(signed[_RANDOM_BYTES:], "big")
            found = (_guest_of(identity), identity, issued_at)
            self._guests.remember(token, found)
        if time.time() - found[2] > self._guest_ttl_seconds:
            return None
        return found

    def _mac(self, signed: bytes) -> bytes:
        return hmac.digest(self._guest_key, signed, "sha256")[:_MAC_BYTES]

    def _refuse_other_sites(self, context: RequestContext) -> None:
        """Raise CSRF_FAILED for a mutation that a page of another site made the browser send.

        A token in a header was put there by code that knew it. Everything else rides on the cookie, or
        would have the answer set one: a form of another site must neither use a buyer's cart nor put
        another one in its place.
        """
        known = context.known
        if known.get(b"x-cart-token"):
            return
        site, origin = known.get(b"sec-fetch-site"), known.get(b"origin")
        if site is None and origin is None:
            # No browser sent it: browsers send one of the two with every mutation.
            return
        if site == b"same-origin" or (origin is not None and self._is_own(origin, context)):
            return
        raise ProblemError("CSRF_FAILED", "A page of another site may not change this cart.")

    def _is_own(self, origin: bytes, context: RequestContext) -> bool:
        """Whether pages of this origin may act for a guest: PUBLIC_URL's (without one, the host that the
        request names) and those of CORS_ORIGINS, compared exactly."""
        if origin in self._own_origins:
            return True
        if self._has_public_origin:
            return False
        text = origin.decode("latin-1")
        scheme, _, authority = text.partition("://")
        host = authority_of(context.text(b"host") or "", scheme)
        return host is not None and authority == host and origin_of(text) == text

    # --- order tokens --------------------------------------------------------------------------

    def order_token(self, checkout_id: str) -> str:
        """What gives read access to one checkout's orders and payment."""
        digest = hmac.digest(self._order_key, checkout_id.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def has_order_token(self, context: RequestContext, checkout_id: str) -> bool:
        sent = context.known.get(b"x-order-token", b"")
        return hmac.compare_digest(sent, self.order_token(checkout_id).encode())


def _derived(secret: str, label: str) -> bytes:
    return hmac.digest(secret.encode(), f"cartstore {label}".encode(), "sha256")


def _guest_of(identity: bytes) -> Owner:
    return Owner("guest", hashlib.sha256(identity).hexdigest()[:32])
