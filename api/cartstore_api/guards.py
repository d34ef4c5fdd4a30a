"""What is found out of a request before its body is read: who sends it, and whether the path takes its query
parameters. In that order: who may not be here learns nothing else, and costs nothing else.

A handler says in its `opt` what it asks of its caller:

    scope            an access token with this scope
    authenticates    an access token that is sent must be valid (what more is asked, its handler says)
    any_parameters   query parameters are not looked at: others decide how they call this path
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from cartstore_api.context import SCOPE_KEY, RequestContext
from cartstore_api.problems import ProblemError
from cartstore_api.schemas import FieldError

SCOPE: Final = "scope"
_AUTHENTICATES: Final = "authenticates"
_ANY_PARAMETERS: Final = "any_parameters"

AUTHENTICATED: Final[dict[str, Any]] = {_AUTHENTICATES: True}
CALLED_BY_GATEWAYS: Final[dict[str, Any]] = {_ANY_PARAMETERS: True}
"""For the `opt` of controllers."""

_PREFIX: Final = "/v1/"
_NO_PARAMETERS: Final = frozenset({"self", "request", "data"})
_NAME_LENGTH_MAX: Final = 64
_NAMED_MAX: Final = 20


async def before_body(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Guard of every route. Raises Unauthenticated, Forbidden, VALIDATION_FAILED."""
    scope: str | None = handler.opt.get(SCOPE)
    if scope is not None or handler.opt.get(_AUTHENTICATES):
        context: RequestContext = connection.scope[SCOPE_KEY]  # type: ignore[typeddict-item]
        callers = connection.app.state.services.callers
        if scope is not None:
            callers.require(context, scope)
        else:
            callers.claims_of(context)
    if (
        connection.scope["query_string"]
        and connection.scope["path"].startswith(_PREFIX)
        and not handler.opt.get(_ANY_PARAMETERS)
    ):
        _check_parameters(connection, handler)


def _check_parameters(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """A name with a typing error would be a filter that does not filter, so no unknown name is let pass."""
    # A parameter whose name is a word of Python's ends in an underscore in the handler (`from_`).
    names = {name.rstrip("_") for name in handler.parsed_fn_signature.parameters}
    taken = names - connection.path_params.keys() - _NO_PARAMETERS
    unknown = [name for name in dict.fromkeys(connection.query_params) if name not in taken]
    if not unknown:
        return
    errors = [
        FieldError(field=name[:_NAME_LENGTH_MAX], detail=_said(name[:_NAME_LENGTH_MAX], taken))
        for name in unknown[:_NAMED_MAX]
    ]
    raise ProblemError("VALIDATION_FAILED", errors[0].detail, field=errors[0].field, errors=errors)


def _said(name: str, taken: set[str]) -> str:
    near = get_close_matches(name.lower(), taken, 1)
    if near:
        return f"There is no query parameter {name!r} here; did you mean {near[0]!r}?"
    others = f"; there are: {', '.join(sorted(taken))}" if taken else ""
    return f"There is no query parameter {name!r} here{others}."
