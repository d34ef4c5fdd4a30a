"""Every problem that the API answers with: RFC 9457, one table, one translation.

Owns codes, statuses and titles, and turns each exception (the taxonomy of `cartstore.errors`, Litestar's
own, and whatever nobody expected) into one `application/problem+json`. What a problem's `fix` is, is
worked out in `remedies.py`.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    InternalServerException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.openapi.datastructures import ResponseSpec

from cartstore.errors import (
    CartError,
    CartStoreError,
    InsufficientStock,
    OutcomeUnknown,
    Repeat,
    StoreError,
    fact_of,
)
from cartstore_api.answers import PROBLEM, Answer
from cartstore_api.context import RawHeader, RequestContext, context_of
from cartstore_api.schemas import Cart, FieldError, Fix, Shortfall

MEDIA_TYPE = PROBLEM[1].decode()
TYPE_PREFIX = "urn:cartstore:problem:"

logger = logging.getLogger("cartstore.api")

_encode = msgspec.json.Encoder().encode

_NUMBER_MAX = 2**53
"""Numbers beyond it are not echoed: JavaScript clients could not read them."""
_DETAIL_LENGTH_MAX = 1_000
_NAME_LENGTH_MAX = 512


class Kind(msgspec.Struct, frozen=True):
    """One row of the table: what every problem of this code says."""

    status: int
    title: str
    suggested_action: str | None = None
    has_fix: bool = False
    """Whether its problems carry a `fix`; one of any other kind is left out. tests/api/test_fixes.py sends
    some of each kind, and sees the problem gone."""
    type: str = ""
    headers: tuple[RawHeader, ...] = ()


_ROWS: dict[str, Kind] = {
    "MALFORMED_REQUEST": Kind(400, "The request is malformed"),
    "MALFORMED_JSON": Kind(400, "The body is not JSON"),
    "IDEMPOTENCY_KEY_REQUIRED": Kind(400, "An Idempotency-Key is required", "send_idempotency_key"),
    "SIGNATURE_INVALID": Kind(400, "The signature is not valid"),
    "UNAUTHENTICATED": Kind(401, "Sign in first", "sign_in"),
    "FORBIDDEN": Kind(403, "Not allowed"),
    "CSRF_FAILED": Kind(403, "The request came from another site"),
    "ITEM_NOT_FOUND": Kind(404, "No such line", "read_cart", has_fix=True),
    "PRODUCT_NOT_FOUND": Kind(404, "No such product", "browse_products", has_fix=True),
    "ORDER_NOT_FOUND": Kind(404, "No such order"),
    "PAYMENT_NOT_FOUND": Kind(404, "No such payment"),
    "COUPON_NOT_FOUND": Kind(404, "No such coupon"),
    "NOT_FOUND": Kind(404, "Nothing here"),
    "METHOD_NOT_ALLOWED": Kind(405, "The method is not allowed here"),
    "EVENTS_GONE": Kind(410, "Events are not kept any more", "read_from_oldest", has_fix=True),
    "BODY_TOO_LARGE": Kind(413, "The body is too large"),
    "UNSUPPORTED_MEDIA_TYPE": Kind(415, "The media type is not supported"),
    "HEADERS_TOO_LARGE": Kind(431, "The headers are too large"),
    "REQUEST_TIMEOUT": Kind(408, "The request did not come in time", "retry"),
    "CART_EMPTY": Kind(409, "The cart is empty", "add_items", has_fix=True),
    "INSUFFICIENT_STOCK": Kind(409, "Not enough in stock", "reduce_quantity", has_fix=True),
    "PRODUCT_INACTIVE": Kind(409, "Not on sale", "remove_line", has_fix=True),
    "PRICE_CHANGED": Kind(409, "A price has changed", "accept_changes", has_fix=True),
    "LINE_CHANGED": Kind(409, "A line is not what the buyer saw", "accept_changes", has_fix=True),
    "TOTAL_CHANGED": Kind(409, "The total has changed", "confirm_total", has_fix=True),
    "CHECKOUT_VALIDATION_FAILED": Kind(
        409, "Several lines cannot be taken as they are", "review_lines", has_fix=True
    ),
    "STOCK_CONFLICT": Kind(409, "The stock does not allow this", "read_stock"),
    "COUPON_NOT_APPLICABLE": Kind(409, "The coupon does not apply"),
    "CURRENCY_MISMATCH": Kind(409, "Another currency than the cart's", "check_out_first", has_fix=True),
    "ORDER_STATE": Kind(409, "The order's state does not allow this", "read_order"),
    "PAYMENT_EXPIRED": Kind(409, "The payment window is over", "check_out_again", has_fix=True),
    "PAYMENT_STATE": Kind(409, "The payment's state does not allow this", "read_payment"),
    "IDEMPOTENCY_IN_PROGRESS": Kind(409, "A call with this key is still running", "retry"),
    "VERSION_CONFLICT": Kind(412, "It has another version", "read_cart", has_fix=True),
    "VALIDATION_FAILED": Kind(422, "A value is not allowed", "correct_request"),
    "INVALID_QUANTITY": Kind(422, "The quantity is not allowed", "change_quantity", has_fix=True),
    "OPTION_REQUIRED": Kind(422, "An option must be chosen", "choose_options", has_fix=True),
    "OPTION_NOT_AVAILABLE": Kind(422, "The option does not exist", "choose_options", has_fix=True),
    "LIMIT_EXCEEDED": Kind(422, "A limit would be exceeded", "reduce_quantity", has_fix=True),
    "NOT_YET_ON_SALE": Kind(422, "Not on sale yet", "come_back_later", has_fix=True),
    "PURCHASE_LIMIT": Kind(422, "The purchase limit is reached", "reduce_quantity", has_fix=True),
    "IDEMPOTENCY_KEY_REUSED": Kind(422, "The key was used for another request", "use_new_key"),
    "FEATURE_OFF": Kind(422, "This feature is switched off"),
    "RATE_LIMITED": Kind(429, "Too many requests", "retry"),
    "STORE_UNAVAILABLE": Kind(503, "The store cannot be reached", "retry"),
    "STORE_RECOVERING": Kind(503, "The store is recovering", "retry"),
    "STORE_FULL": Kind(503, "The store has no room for new work", "retry"),
    "OUTCOME_UNKNOWN": Kind(504, "The outcome is unknown", "retry_with_same_key"),
    "INTERNAL": Kind(500, "A defect of the service", "retry_with_same_key"),
}
_RETRY_AFTER_SECONDS = {
    "STORE_UNAVAILABLE": b"1",
    "STORE_RECOVERING": b"2",
    "STORE_FULL": b"5",
    "OUTCOME_UNKNOWN": b"1",
    "IDEMPOTENCY_IN_PROGRESS": b"1",
}


def _headers_of(code: str, status: int) -> tuple[RawHeader, ...]:
    headers: tuple[RawHeader, ...] = ()
    if code in _RETRY_AFTER_SECONDS:
        headers += ((b"retry-after", _RETRY_AFTER_SECONDS[code]),)
    if status == 401:
        headers += ((b"www-authenticate", b"Bearer"),)
    return headers


KINDS: dict[str, Kind] = {
    code: msgspec.structs.replace(
        row,
        type=TYPE_PREFIX + code.lower().replace("_", "-"),
        headers=_headers_of(code, row.status),
    )
    for code, row in _ROWS.items()
}
"""Every code, in the order of the contract's table. INTERNAL is the one that no request should reach."""


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What an answer that is not a success says (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    field: str | None = None
    errors: list[FieldError] | None = None
    line_id: str | None = None
    sku: str | None = None
    available_quantity: int | None = None
    requested_quantity: int | None = None
    shortfalls: list[Shortfall] | None = None
    suggested_action: str | None = None
    fix: Fix | None = None
    cart: Cart | None = None


class ProblemError(Exception):
    """A problem that the API itself finds, or one of the store's with what the API adds to it."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        errors: list[FieldError] | None = None,
        line_id: str | None = None,
        sku: str | None = None,
        available_quantity: int | None = None,
        requested_quantity: int | None = None,
        shortfalls: list[Shortfall] | None = None,
        suggested_action: str | None = None,
        fix: Fix | None = None,
        cart: Cart | None = None,
        headers: tuple[RawHeader, ...] = (),
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.errors = errors
        self.line_id = line_id
        self.sku = sku
        self.available_quantity = available_quantity
        self.requested_quantity = requested_quantity
        self.shortfalls = shortfalls
        self.suggested_action = suggested_action
        self.fix = fix
        self.cart = cart
        self.headers = headers

    @classmethod
    def of(cls, error: CartError) -> ProblemError:
        """The store's refusal, with the fields that it carries."""
        return cls(
            error.code,
            error.message,
            field=error.field,
            errors=(
                [FieldError(field=field, detail=detail) for field, detail in error.errors]
                if error.errors
                else None
            ),
            line_id=error.line_id,
            sku=error.sku,
            available_quantity=error.available_quantity,
            requested_quantity=error.requested_quantity,
            shortfalls=[shortfall_of(entry) for entry in error.shortfalls] if error.shortfalls else None,
        )


def shortfall_of(entry: dict[str, Any]) -> Shortfall:
    """One entry of an error's `shortfalls`, without its prices: those need the cart's currency."""
    return Shortfall(
        code=entry.get("code", "VALIDATION_FAILED"),
        line_id=entry.get("line_id"),
        sku=entry.get("sku"),
        requested_quantity=_sane(entry.get("requested_quantity")),
        available_quantity=_sane(entry.get("available_quantity")),
    )


def handle(request: Request[Any, Any, Any], exc: Exception) -> Response[Any]:
    """The one exception handler of the application."""
    if isinstance(exc, RequestEntityTooLarge):
        # The rest of the body is not read, so the connection cannot be used again.
        bytes_max = request.route_handler.resolve_request_max_body_size()
        exc = ProblemError(
            "BODY_TOO_LARGE",
            f"This path takes bodies of at most {bytes_max} bytes.",
            headers=((b"connection", b"close"),),
        )
    return answer(context_of(request), exc, request.scope["method"], request.scope["path"]).response()


def answer(context: RequestContext, exc: Exception, method: str, path: str) -> Answer:
    """What a request ends in that raised this."""
    error = _translate_read(exc) if method == "GET" else translate(exc)
    kind = KINDS[error.code]
    context.code = error.code
    if kind.status == 500:
        logger.error("unexpected", exc_info=exc, extra={"fields": {"request_id": context.request_id}})
    if error.fix is not None and not kind.has_fix:
        logger.error("a problem %s may have no fix, by the table of problems; it is left out", error.code)
    problem = Problem(
        type=kind.type,
        title=kind.title,
        status=kind.status,
        detail=_printable(error.detail, _DETAIL_LENGTH_MAX),
        instance=_printable(path),
        code=error.code,
        request_id=context.request_id,
        field=error.field and _printable(error.field),
        errors=_errors_of(error),
        line_id=error.line_id and _printable(error.line_id),
        sku=error.sku and _printable(error.sku),
        available_quantity=_sane(error.available_quantity),
        requested_quantity=_sane(error.requested_quantity),
        shortfalls=error.shortfalls,
        suggested_action=error.suggested_action or kind.suggested_action,
        fix=error.fix if kind.has_fix else None,
        cart=error.cart,
    )
    return Answer(_encode(problem), kind.status, (*kind.headers, *error.headers), PROBLEM)


_SHORT = KINDS["INSUFFICIENT_STOCK"]


def answer_short(
    context: RequestContext,
    error: InsufficientStock,
    line_id: str,
    path: str,
    fix: Fix | None,
    suggested_action: str | None = None,
) -> Answer:
    """What a request ends in that wants more units for a line than there are; byte for byte what `answer`
    would give. A crowd is refused as often as it is served, and so as fast: without an exception of ours, and
    with names that the store has checked."""
    context.code = error.code
    problem = Problem(
        type=_SHORT.type,
        title=_SHORT.title,
        status=_SHORT.status,
        detail=error.message,
        instance=path,
        code=error.code,
        request_id=context.request_id,
        line_id=line_id,
        sku=error.sku,
        available_quantity=_sane(error.available_quantity),
        requested_quantity=_sane(error.requested_quantity),
        suggested_action=suggested_action or _SHORT.suggested_action,
        fix=fix,
    )
    return Answer(_encode(problem), _SHORT.status, _SHORT.headers, PROBLEM)


_REPEATS: dict[Repeat, str] = {
    "Idempotency-Key": "retry_with_same_key",
    "reference": "retry_with_same_reference",
    "call": "retry",
}


def translate(exc: Exception) -> ProblemError:
    """Any exception as a problem; what nobody expected becomes INTERNAL."""
    if isinstance(exc, ProblemError):
        return exc
    if isinstance(exc, CartError):
        return ProblemError.of(exc) if exc.code in KINDS else ProblemError("INTERNAL", _INTERNAL)
    if isinstance(exc, OutcomeUnknown):
        return ProblemError(exc.code, exc.message, suggested_action=_REPEATS[exc.repeat])
    if isinstance(exc, StoreError):
        return ProblemError(exc.code, exc.message)
    if isinstance(exc, CartStoreError):
        return ProblemError("INTERNAL", _INTERNAL)
    if isinstance(exc, HTTPException):
        return _translate_http(exc)
    return ProblemError("INTERNAL", _INTERNAL)


def _translate_read(exc: Exception) -> ProblemError:
    """The same for a request that changes nothing: it is not told what became of a change."""
    if isinstance(exc, OutcomeUnknown):
        return ProblemError("STORE_UNAVAILABLE", fact_of(exc))
    if isinstance(exc, StoreError):
        return ProblemError(exc.code, fact_of(exc))
    error = translate(exc)
    if error.code == "INTERNAL":
        return ProblemError("INTERNAL", "This is a defect of the service.", suggested_action="retry")
    return error


_INTERNAL = "This is a defect of the service. Whether the change was applied is unknown."


def body_required() -> ProblemError:
    """What a route answers that needs a body and got none."""
    return ProblemError("MALFORMED_JSON", "A JSON body is required.")


def _translate_http(exc: HTTPException) -> ProblemError:
    if isinstance(exc, ValidationException):
        return _translate_validation(exc)
    if isinstance(exc, NotFoundException):
        return ProblemError("NOT_FOUND", "There is nothing at this path.")
    if isinstance(exc, MethodNotAllowedException):
        allow = ", ".join(sorted((exc.headers or {}).get("allow", "").split(", ")))
        return ProblemError(
            "METHOD_NOT_ALLOWED",
            f"This path takes {allow}.",
            headers=((b"allow", allow.encode("latin-1")),) if allow else (),
        )
    if isinstance(exc, InternalServerException) and "disconnected" in exc.detail:
        return ProblemError("MALFORMED_JSON", "The body ended early.")
    if 400 <= exc.status_code < 500:
        return ProblemError("VALIDATION_FAILED", exc.detail or "The request is not valid.")
    return ProblemError("INTERNAL", _INTERNAL)


def _translate_validation(exc: ValidationException) -> ProblemError:
    entries: list[Any] = exc.extra if isinstance(exc.extra, list) else []
    errors = [
        FieldError(field=str(entry["key"]), detail=f"{entry['key']}: {entry.get('message') or exc.detail}")
        for entry in entries
        if isinstance(entry, dict) and "key" in entry
    ]
    if not errors:
        return ProblemError("VALIDATION_FAILED", exc.detail)
    if errors[0].field == "data":
        return body_required()
    return ProblemError("VALIDATION_FAILED", errors[0].detail, field=errors[0].field, errors=errors)


def _errors_of(error: ProblemError) -> list[FieldError] | None:
    """All wrong fields; of a problem that names one field, that one."""
    found = error.errors
    if found is None and error.code == "VALIDATION_FAILED" and error.field:
        found = [FieldError(field=error.field, detail=error.detail)]
    if found is None:
        return None
    return [
        FieldError(field=_printable(entry.field), detail=_printable(entry.detail, _DETAIL_LENGTH_MAX))
        for entry in found
    ]


def _printable(text: str, length_max: int = _NAME_LENGTH_MAX) -> str:
    """A text that can be encoded whatever the caller sent: a lone surrogate would fail the encoder."""
    if len(text) > length_max:
        text = text[:length_max]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _sane(number: int | None) -> int | None:
    return number if number is None or -_NUMBER_MAX <= number <= _NUMBER_MAX else None


_DESCRIPTIONS = {
    400: "The body is not JSON, or a required header is missing.",
    401: "The token is missing, expired or not ours.",
    403: "The token lacks the scope, or the request came from another site.",
    404: "It does not exist, or belongs to somebody else.",
    405: "The path does not take this method; `Allow` names those that it takes.",
    409: "The state of things does not allow it; `fix` is a request that does.",
    410: "What was asked for is not kept any more.",
    412: "`If-Match` named another version; `cart` is the current cart.",
    413: "The body is too large.",
    415: "The body has a media type that the path does not take.",
    422: "A value is not allowed; `field` names the first such field, `errors` all of them.",
    503: "The store cannot take it now, and nothing was changed. Try again after `Retry-After` seconds.",
    504: "Unknown: the change may have been applied. Repeat it with the same `Idempotency-Key`, "
    "stock with the same `reference`.",
}


def description_of(status: int) -> str:
    """What the OpenAPI document says of a problem with this status."""
    return _DESCRIPTIONS[status]


def responses(*statuses: int) -> dict[int, ResponseSpec]:
    """The OpenAPI entries of the problems that a route may answer with."""
    return {
        status: ResponseSpec(
            data_container=Problem,
            generate_examples=False,
            description=_DESCRIPTIONS[status],
            media_type=MEDIA_TYPE,
        )
        for status in statuses
    }
