"""What the OpenAPI document says of routes beyond their own signature: headers and who may call.

The headers are read where they are used (`callers`, `conditions`), not declared as handler arguments, so
they are described here, once, and every operation refers to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from litestar.openapi.spec import Components, OpenAPIHeader, Operation, Reference, SecurityScheme
from litestar.openapi.spec import Parameter as HeaderParameter
from litestar.openapi.spec.enums import OpenAPIType
from litestar.openapi.spec.schema import Schema

_HEADERS = {
    "CartToken": (
        "X-Cart-Token",
        "A guest's token, for clients without cookies. Unknown and dead ones read as an empty cart, and are "
        "replaced by a fresh one (`Cart-Token` in the answer) when something is changed.",
    ),
    "IdempotencyKey": (
        "Idempotency-Key",
        "A key of the client's own making, at most 255 visible characters, quoted or bare. Repeated with the "
        "same request, the first result is given again (`Idempotent-Replayed: true`).",
    ),
    "CheckoutKey": (
        "Idempotency-Key",
        "A key of the client's own making, at most 255 visible characters, quoted or bare. Repeated with the "
        "same request, the first checkout is answered again (`Idempotent-Replayed: true`), for ever.",
    ),
    "IfMatch": (
        "If-Match",
        'The ETag of what is changed, or `"<version>"`: refused (412) when it has another version.',
    ),
    "IfNoneMatch": ("If-None-Match", "An ETag of what is read: 304 when it is still the current one."),
    "Prefer": ("Prefer", "`return=representation`: the answer is the whole cart."),
    "OrderToken": (
        "X-Order-Token",
        "The `order_token` of a checkout: reads its orders and payment without signing in.",
    ),
    "RequestId": (
        "X-Request-Id",
        "An id for this request, `[A-Za-z0-9._~-]{1,128}`; it is echoed, and made when absent.",
    ),
}

_REQUIRED = frozenset({"CheckoutKey"})


def components(cookie_name: str) -> Components:
    """The described headers and the ways to say who is calling."""
    return Components(
        parameters={
            key: HeaderParameter(
                name=name,
                param_in="header",
                required=key in _REQUIRED,
                description=text,
                schema=Schema(type=OpenAPIType.STRING),
            )
            for key, (name, text) in _HEADERS.items()
        },
        security_schemes={
            "bearer": SecurityScheme(
                type="http",
                scheme="bearer",
                bearer_format="JWT",
                description="A signed-in caller: HS256; `sub` is the user, `scope` what else is allowed.",
            ),
            "cartToken": SecurityScheme(
                type="apiKey",
                security_scheme_in="header",
                name="X-Cart-Token",
                description="A guest's token.",
            ),
            "cartCookie": SecurityScheme(
                type="apiKey", security_scheme_in="cookie", name=cookie_name, description="A guest's cookie."
            ),
        },
    )


_ANSWER_HEADERS = {
    "X-Request-Id": "The id of the request, for whoever looks into it.",
    "Cart-Token": "A guest's token, when a fresh one was issued; a cookie comes with it.",
    "Idempotent-Replayed": "`true` when the answer repeats the first one of this Idempotency-Key.",
    "ETag": "The version, and a digest of what may change without it.",
}


def _refer(operation: Operation, *keys: str, answers: Sequence[str] = ()) -> None:
    """Add the request headers of these keys, and these headers of successful answers."""
    operation.parameters = [
        *(operation.parameters or ()),
        *(Reference(ref=f"#/components/parameters/{key}") for key in (*keys, "RequestId")),
    ]
    described: dict[str, Any] = dict(operation.responses or {})
    for status, answer in list(described.items()):
        if status == "400" and "application/json" in (answer.content or {}):
            # Litestar's own idea of a validation error; ours is a problem with status 422.
            del described[status]
        elif status.startswith("2"):
            answer.description = "Done." if status == "200" else "Done, and something new exists."
            answer.headers = {
                name: OpenAPIHeader(description=_ANSWER_HEADERS[name], schema=Schema(type=OpenAPIType.STRING))
                for name in (*answers, "X-Request-Id")
            }
    operation.responses = described


_CHANGED = ("Cart-Token", "Idempotent-Replayed")

_ANYONE: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"cartToken": []}, {"cartCookie": []}]


@dataclass
class CartRead(Operation):
    """Reads the caller's own things."""

    def __post_init__(self) -> None:
        self.security = _ANYONE
        _refer(self, "CartToken")


@dataclass
class CachedCartRead(Operation):
    """Reads the caller's cart, which clients may keep by its ETag."""

    def __post_init__(self) -> None:
        self.security = _ANYONE
        _refer(self, "CartToken", "IfNoneMatch", answers=("ETag",))


@dataclass
class CartMutation(Operation):
    """Changes the caller's cart."""

    def __post_init__(self) -> None:
        self.security = _ANYONE
        _refer(self, "CartToken", "IdempotencyKey", "IfMatch", "Prefer", answers=_CHANGED)


@dataclass
class CheckoutMutation(Operation):
    """Begins a checkout of the caller's cart."""

    def __post_init__(self) -> None:
        self.security = _ANYONE
        _refer(self, "CartToken", "CheckoutKey", "IfMatch", answers=_CHANGED)


@dataclass
class OrderMutation(Operation):
    """Changes an order or a payment of the caller; naturally idempotent."""

    def __post_init__(self) -> None:
        self.security = _ANYONE
        _refer(self, "CartToken", "IdempotencyKey")


@dataclass
class OrderRead(Operation):
    """Reads an order or a payment, by its owner or by the checkout's access token."""

    def __post_init__(self) -> None:
        self.security = _ANYONE
        _refer(self, "CartToken", "OrderToken")


@dataclass
class Public(Operation):
    """Anyone may call it."""

    def __post_init__(self) -> None:
        # Said of each: without it a reader cannot tell a public route from one that nobody thought of.
        self.security = []
        _refer(self)


@dataclass
class CachedRead(Operation):
    """Anyone may call it, and keep the answer by its ETag."""

    def __post_init__(self) -> None:
        self.security = []
        _refer(self, "IfNoneMatch", answers=("ETag",))


@dataclass
class AdminChange(Operation):
    """Needs an access token with a scope, and may be conditional on a version."""

    def __post_init__(self) -> None:
        self.security = [{"bearer": []}]
        _refer(self, "IfMatch", answers=("ETag",))


@dataclass
class Admin(Operation):
    """Needs an access token with a scope."""

    def __post_init__(self) -> None:
        self.security = [{"bearer": []}]
        _refer(self)
