"""What the five hot routes of the cart do, from a request's context and its decoded body to a whole answer.

The one implementation of both lanes: Litestar's handlers, and the fast lane. Knows no request of Litestar's.
"""

from __future__ import annotations

from typing import Final

from cartstore import model
from cartstore.errors import CartError, InsufficientStock
from cartstore.free_json import canonical_properties
from cartstore_api import schemas
from cartstore_api.answers import NO_HEADERS, REPLAYED, Answer
from cartstore_api.conditions import (
    guard_of,
    matches_etag,
    names_several_versions,
    narrowed,
    wants_representation,
)
from cartstore_api.context import RawHeader, RequestContext
from cartstore_api.problems import ProblemError, answer_short
from cartstore_api.remedies import BROWSE, BROWSING, ITEMS, fix_short
from cartstore_api.services import Services

_IS_REPRESENTATION: Final[RawHeader] = (b"preference-applied", b"return=representation")


async def read(services: Services, context: RequestContext) -> Answer:
    """GET /v1/cart"""
    body, etag = await services.read_cart_with_etag(services.callers.reader(context))
    headers = ((b"etag", etag),)
    if matches_etag(context, etag):
        return Answer(b"", 304, headers)
    return Answer(body, 200, headers)


async def read_summary(services: Services, context: RequestContext) -> Answer:
    """GET /v1/cart/summary"""
    return Answer(await services.read_summary(services.callers.reader(context)))


async def changer_of(services: Services, context: RequestContext) -> tuple[model.Owner, model.Guard]:
    """Whose cart a request changes, and on what condition. Raises what `guard_of` and `mutator` raise."""
    known = context.known
    if b"idempotency-key" in known or b"if-match" in known:
        # A wrong token is told before a wrong header, on both ways of a request.
        services.callers.claims_of(context)
    guard = guard_of(context)
    owner = services.callers.mutator(context)
    if guard.if_match is not None and names_several_versions(context):
        guard = narrowed(guard, context, (await services.store.read_summary(owner)).version)
    return owner, guard


async def add_line(services: Services, context: RequestContext, data: schemas.AddItem) -> Answer:
    """POST /v1/cart/items"""
    owner, guard = await changer_of(services, context)
    sku = data.sku
    if sku is None or data.product_id is not None or data.options is not None:
        sku = await _sku_to_add(services, data)
    try:
        result = await services.store.add_line(
            owner, sku, data.quantity, properties=data.properties, guard=guard
        )
    except InsufficientStock as error:
        line_id = error.line_id or _line_id_of(sku, data)
        fix = fix_short(error, line_id, data.properties, is_there=False)
        return answer_short(context, error, line_id, ITEMS, fix, BROWSING if fix is BROWSE else None)
    except CartError as error:
        raise await services.remedies.explain_line(
            error,
            owner,
            line_id=_line_id_of(sku, data),
            quantity=data.quantity,
            properties=data.properties,
            is_add=True,
        ) from error
    return await _line_answer(services, context, owner, result, status=201)


async def set_quantity(
    services: Services, context: RequestContext, line_id: str, data: schemas.SetQuantity
) -> Answer:
    """PATCH /v1/cart/items/{line_id}"""
    owner, guard = await changer_of(services, context)
    try:
        result = await services.store.set_quantity(owner, line_id, data.quantity, guard=guard)
    except InsufficientStock as error:
        fix = fix_short(error, line_id, None, is_there=True)
        return answer_short(context, error, line_id, f"{ITEMS}/{line_id}", fix)
    except CartError as error:
        raise await services.remedies.explain_line(
            error, owner, line_id=line_id, quantity=data.quantity
        ) from error
    return await _line_answer(services, context, owner, result)


async def remove_line(services: Services, context: RequestContext, line_id: str) -> Answer:
    """DELETE /v1/cart/items/{line_id}"""
    owner, guard = await changer_of(services, context)
    try:
        result = await services.store.remove_line(owner, line_id, guard=guard)
    except CartError as error:
        raise await services.remedies.explain(error, owner) from error
    return await _line_answer(services, context, owner, result)


async def answer_or_cart(
    services: Services,
    context: RequestContext,
    owner: model.Owner,
    change: bytes,
    *,
    is_replay: bool,
    status: int = 200,
) -> Answer:
    """What a mutation did, or the whole cart when the caller prefers that."""
    headers = (REPLAYED,) if is_replay else NO_HEADERS
    if not wants_representation(context):
        return Answer(change, status, headers)
    cart, etag = await services.read_cart_with_etag(owner)
    return Answer(cart, status, (*headers, (b"etag", etag), _IS_REPRESENTATION))


async def _line_answer(
    services: Services,
    context: RequestContext,
    owner: model.Owner,
    result: model.LineResult,
    *,
    status: int = 200,
) -> Answer:
    text = services.text
    change = text.line_change(result)
    if change is None:
        change = text.line_change(result, await text.products_of(result))
        assert change is not None
    if b"prefer" not in context.known:
        return Answer(change, status, (REPLAYED,) if result.replayed else NO_HEADERS)
    return await answer_or_cart(services, context, owner, change, is_replay=result.replayed, status=status)


async def _sku_to_add(services: Services, data: schemas.AddItem) -> str:
    """The SKU, or that of the variant which product and options choose."""
    if data.sku is not None:
        raise ProblemError(
            "VALIDATION_FAILED", "Name a sku, or a product_id with its options.", field="product_id"
        )
    if data.product_id is None:
        raise ProblemError("VALIDATION_FAILED", "Name a sku or a product_id.", field="sku")
    try:
        return (await services.store.find_variant(data.product_id, data.options)).sku
    except CartError as error:
        problem = ProblemError.of(error)
        if problem.code.startswith("OPTION_"):
            problem.fix = schemas.Fix(method="GET", path=f"/v1/products/{data.product_id}")
        elif problem.code == "PRODUCT_NOT_FOUND":
            problem.fix = schemas.Fix(method="GET", path="/v1/products")
        raise problem from error


def _line_id_of(sku: str, data: schemas.AddItem) -> str:
    try:
        return model.line_id_of(sku, canonical_properties(data.properties))
    except CartError:
        return sku
