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
from collections import OrderedDict
from typing import Any
from urllib.parse import urlsplit

import jwt
import msgspec
from litestar import Request

from cartstore.errors import ConfigurationError, FeatureOff, Forbidden, Unauthenticated
from cartstore.model import Owner
from cartstore.settings import Settings
from cartstore_api.context import context_of
from cartstore_api.problems import ProblemError

LEEWAY_SECONDS = 5
"""Clocks of issuer and service may differ by this much."""

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/=-]{1,4096})\Z", re.IGNORECASE)
_USER_ID_LENGTH_MAX = 128
_VERIFIED_MAX = 8_192
"""Access tokens that are remembered as verified."""

_GUEST_TOKEN = re.compile(r"[A-Za-z0-9_-]{52}\Z")
_RANDOM_BYTES = 16
_ISSUED_BYTES = 5
_MAC_BYTES = 18
_RENEW_AFTER_SECONDS = 86_400
"""A guest token is issued again when it is older. It lives that much longer than the cart, so that it
never dies before the inactivity that the setting promises."""

UNKNOWN_GUEST = Owner("guest", "none")
"""A guest that has no cart yet: reads as an empty cart, and no token ever names it."""


class Claims(msgspec.Struct, frozen=True):
    """What a verified access token says."""

    user_id: str
    scopes: frozenset[str]
    expires_at: float

    def allows(self, scope: str) -> bool:
        return "admin" in self.scopes or scope in self.scopes


class Callers:
    """Tells who sent a request, and issues what guests need to be known again."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError without a secret."""
        if not settings.jwt_secret:
            raise ConfigurationError("CARTSTORE_JWT_SECRET is needed to serve the API.")
        if settings.jwt_jwks:
            raise ConfigurationError("CARTSTORE_JWT_JWKS is not supported yet: only HS256 tokens are read.")
        self._settings = settings
        self._guest_key = _derived(settings.jwt_secret, "guest token")
        self._order_key = _derived(settings.jwt_secret, "order token")
        self._verified: OrderedDict[str, Claims] = OrderedDict()
        self._guest_ttl_seconds = settings.guest_cart_ttl_days * 86_400 + _RENEW_AFTER_SECONDS
        prefix = "__Host-" if settings.is_production else ""
        self.cookie_name = prefix + settings.guest_cookie
        self._cookie_tail = f"; Path=/; Max-Age={self._guest_ttl_seconds}; HttpOnly; SameSite=Lax" + (
            "; Secure" if settings.is_production else ""
        )
        self._trusted_sites = {
            host
            for origin in settings.cors_origins.split(",")
            if (host := urlsplit(origin.strip()).hostname) is not None
        }

    # --- access tokens -------------------------------------------------------------------------

    def claims_of(self, request: Request[Any, Any, Any]) -> Claims | None:
        """The verified access token; None when none was sent. Raises Unauthenticated for any other."""
        authorization = request.headers.get("authorization")
        if authorization is None:
            return None
        match = _BEARER.match(authorization.strip())
        if match is None:
            raise Unauthenticated("Send `Authorization: Bearer <token>`.")
        token = match[1]
        claims = self._verified.get(token)
        if claims is None:
            claims = self._verify(token)
            self._verified[token] = claims
            if len(self._verified) > _VERIFIED_MAX:
                self._verified.popitem(last=False)
        else:
            self._verified.move_to_end(token)
        # Looked at on every use: a token that was verified once expires all the same.
        if claims.expires_at + LEEWAY_SECONDS <= time.time():
            self._verified.pop(token, None)
            raise Unauthenticated("The token has expired.")
        return claims

    def require(self, request: Request[Any, Any, Any], scope: str) -> Claims:
        """The access token, which must have this scope. Raises Unauthenticated, Forbidden."""
        claims = self.claims_of(request)
        if claims is None:
            raise Unauthenticated()
        if not claims.allows(scope):
            raise Forbidden(f"The token lacks the scope {scope}.")
        return claims

    def _verify(self, token: str) -> Claims:
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
        return Claims(user_id=user_id, scopes=frozenset(scope.split()), expires_at=expires_at)

    # --- owners --------------------------------------------------------------------------------

    def reader(self, request: Request[Any, Any, Any]) -> Owner:
        """Whose things may be read; UNKNOWN_GUEST for a guest without a living token."""
        claims = self.claims_of(request)
        if claims is not None:
            return Owner("user", claims.user_id)
        found = self._read_guest_token(self._sent_guest_token(request) or "")
        return found[0] if found is not None else UNKNOWN_GUEST

    def actor(self, request: Request[Any, Any, Any]) -> Owner:
        """As `reader`, for a mutation of what exists already: another site may not send it."""
        owner = self.reader(request)
        if owner.is_guest:
            self._refuse_other_sites(request)
        return owner

    def mutator(self, request: Request[Any, Any, Any]) -> Owner:
        """Whose cart may be changed: a guest without a living token gets a fresh one with the answer.

        Raises Unauthenticated, FeatureOff (guests, while they have no carts), CSRF_FAILED.
        """
        claims = self.claims_of(request)
        if claims is not None:
            return Owner("user", claims.user_id)
        if self._settings.guest_carts == "off":
            raise FeatureOff("Guests have no carts here: sign in.")
        self._refuse_other_sites(request)
        found = self._read_guest_token(self._sent_guest_token(request) or "")
        if found is None:
            identity = secrets.token_bytes(_RANDOM_BYTES)
            self._issue(request, identity)
            return _guest_of(identity)
        owner, identity, issued_at = found
        if time.time() - issued_at > _RENEW_AFTER_SECONDS:
            self._issue(request, identity)
        return owner

    def new_guest(self, request: Request[Any, Any, Any]) -> tuple[str, float]:
        """A new identity, stored nowhere: its token, and when that expires (seconds since the epoch).

        Raises FeatureOff, CSRF_FAILED.
        """
        if self._settings.guest_carts == "off":
            raise FeatureOff("Guests have no carts here: sign in.")
        self._refuse_other_sites(request)
        return self._issue(request, secrets.token_bytes(_RANDOM_BYTES))

    def _issue(self, request: Request[Any, Any, Any], identity: bytes) -> tuple[str, float]:
        """Send a token of this identity, as header and cookie, with whatever the answer is."""
        now = time.time()
        signed = identity + int(now).to_bytes(_ISSUED_BYTES, "big")
        token = base64.urlsafe_b64encode(signed + self._mac(signed)).decode()
        context_of(request.scope).headers += [
            (b"cart-token", token.encode()),
            (b"set-cookie", f"{self.cookie_name}={token}{self._cookie_tail}".encode()),
        ]
        return token, now + self._guest_ttl_seconds

    def _sent_guest_token(self, request: Request[Any, Any, Any]) -> str | None:
        return request.headers.get("x-cart-token") or request.cookies.get(self.cookie_name)

    def _read_guest_token(self, token: str) -> tuple[Owner, bytes, int] | None:
        """Owner, identity and time of issue; None for a token that we did not sign or that is dead."""
        if not _GUEST_TOKEN.match(token):
            return None
        decoded = base64.urlsafe_b64decode(token)
        signed, mac = decoded[:-_MAC_BYTES], decoded[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(signed)):
            return None
        identity, issued_at = signed[:_RANDOM_BYTES], int.from_bytes(signed[_RANDOM_BYTES:], "big")
        if time.time() - issued_at > self._guest_ttl_seconds:
            return None
        return _guest_of(identity), identity, issued_at

    def _mac(self, signed: bytes) -> bytes:
        return hmac.digest(self._guest_key, signed, "sha256")[:_MAC_BYTES]

    def _refuse_other_sites(self, request: Request[Any, Any, Any]) -> None:
        """Raise CSRF_FAILED for a mutation that a page of another site made the browser send.

        A token in a header was put there by code that knew it. Everything else rides on the cookie, or
        would have the answer set one: a form of another site must neither use a buyer's cart nor put
        another one in its place.
        """
        headers = request.headers
        if headers.get("x-cart-token"):
            return
        site = headers.get("sec-fetch-site")
        origin = headers.get("origin")
        if origin is not None and _hostname(origin) in self._trusted_sites:
            return
        if site is not None:
            is_foreign = site.strip().lower() == "cross-site"
        else:
            is_foreign = origin is not None and _hostname(origin) != _hostname("//" + headers.get("host", ""))
        if is_foreign:
            raise ProblemError("CSRF_FAILED", "A page of another site may not change this cart.")

    # --- order tokens --------------------------------------------------------------------------

    def order_token(self, checkout_id: str) -> str:
        """What gives read access to one checkout's orders and payment."""
        digest = hmac.digest(self._order_key, checkout_id.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def has_order_token(self, request: Request[Any, Any, Any], checkout_id: str) -> bool:
        sent = request.headers.get("x-order-token") or ""
        return hmac.compare_digest(sent.encode(), self.order_token(checkout_id).encode())


def _derived(secret: str, label: str) -> bytes:
    return hmac.digest(secret.encode(), f"cartstore {label}".encode(), "sha256")


def _guest_of(identity: bytes) -> Owner:
    return Owner("guest", hashlib.sha256(identity).hexdigest()[:32])


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
