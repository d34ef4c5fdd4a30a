"""The caller's cart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from litestar import Controller, Request, Response, delete, get, patch, post, put
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody

from cartstore import model
from cartstore.errors import CartError, InvalidField
from cartstore.free_json import canonical_properties
from cartstore_api import cart_calls, schemas, views
from cartstore_api.answers import NO_HEADERS, REPLAYED, Answer
from cartstore_api.bodies import StrictBody
from cartstore_api.context import context_of
from cartstore_api.guards import AUTHENTICATED
from cartstore_api.operations import CachedCartRead, CartMutation, CartRead, Public
from cartstore_api.problems import ProblemError, responses
from cartstore_api.services import Services, answer, services_of

AnyRequest = Request[Any, Any, Any]


_UNCHANGED = ResponseSpec(None, description="The ETag of `If-None-Match` is still the current one.")


class GuestController(Controller):
    """Tokens of guests."""

    path = "/v1/guest"
    tags = ("Cart",)

    @post(
        status_code=201,
        operation_class=Public,
        operation_id="CreateGuest",
        summary="Get a guest token",
        responses=responses(403, 422),
    )
    async def create(self, request: AnyRequest) -> Response[schemas.Guest]:
        """Gives a signed token of a new guest, as a cookie too, and stores nothing."""
        token, expires_at = services_of(request).callers.new_guest(context_of(request))
        guest = schemas.Guest(token=token, expires_at=views.time_text(int(expires_at * 1_000)))
        return answer(guest, status=201)


class CartController(Controller):
    """One active cart per caller."""

    path = "/v1/cart"
    tags = ("Cart",)
    dto = StrictBody
    opt = AUTHENTICATED

    @get(
        operation_class=CachedCartRead,
        operation_id="ReadCart",
        summary="Read the cart",
        responses={**responses(401, 503), 304: _UNCHANGED},
    )
    async def read(self, request: AnyRequest) -> Response[schemas.Cart]:
        """The cart with exact availability of every line; an absent cart reads as an empty one.

        `ETag` changes with everything that is told, except the countdown of holds."""
        return (await cart_calls.read(services_of(request), context_of(request))).response()

    @get(
        "/summary",
        operation_class=CartRead,
        operation_id="ReadSummary",
        summary="Read the cart's totals",
        responses=responses(401, 503),
    )
    async def read_summary(self, request: AnyRequest) -> Response[schemas.Summary]:
        """The running totals of all lines at the prices the buyer saw; costs the same for any cart."""
        return (await cart_calls.read_summary(services_of(request), context_of(request))).response()

    @post(
        "/items",
        status_code=201,
        operation_class=CartMutation,
        operation_id="AddLine",
        summary="Add to the cart",
        responses=responses(400, 401, 403, 404, 409, 412, 413, 415, 422, 503, 504),
    )
    async def add_line(
        self, request: AnyRequest, data: JSONBody[schemas.AddItem]
    ) -> Response[schemas.LineChange]:
        """Adds units of a SKU, or of the variant of a product that the options choose, and holds them. The
        same variation adds to its line. With `Prefer: return=representation` the answer is the whole cart."""
        return (await cart_calls.add_line(services_of(request), context_of(request), data)).response()

    @patch(
        "/items/{line_id:str}",
        operation_class=CartMutation,
        operation_id="SetQuantity",
        summary="Set a line's quantity",
        responses=responses(400, 401, 403, 404, 409, 412, 413, 415, 422, 503, 504),
    )
    async def set_quantity(
        self, request: AnyRequest, line_id: FromPath[str], data: JSONBody[schemas.SetQuantity]
    ) -> Response[schemas.LineChange]:
        """0 removes the line; `line` is null then. With `Prefer: return=representation` the answer is the
        whole cart."""
        services, context = services_of(request), context_of(request)
        return (await cart_calls.set_quantity(services, context, line_id, data)).response()

    @delete(
        "/items/{line_id:str}",
        status_code=200,
        operation_class=CartMutation,
        operation_id="RemoveLine",
        summary="Remove a line",
        responses=responses(401, 403, 404, 412, 422, 503, 504),
    )
    async def remove_line(self, request: AnyRequest, line_id: FromPath[str]) -> Response[schemas.LineChange]:
        """Its hold goes back in the same step. With `Prefer: return=representation` the answer is the whole
        cart."""
        return (await cart_calls.remove_line(services_of(request), context_of(request), line_id)).response()

    @put(
        "/items",
        operation_class=CartMutation,
        operation_id="PutLines",
        summary="Set several lines",
        responses=responses(400, 401, 403, 404, 409, 412, 413, 415, 422, 503, 504),
    )
    async def put_lines(
        self, request: AnyRequest, data: JSONBody[schemas.PutItems]
    ) -> Response[schemas.ItemsChange]:
        """Lines that are not named stay. `all` (the default): everything or nothing, and every shortfall is
        named. `partial`: each entry on its own, with a result per entry. Lines of a cart that was read can
        be sent back as they are. With `Prefer: return=representation` the answer is the whole cart."""
        services = services_of(request)
        owner, guard = await cart_calls.changer_of(services, context_of(request))
        try:
            result = await services.store.put_lines(
                owner,
                _put_items(data.items),
                mode=data.mode,
                guard=guard,
            )
        except CartError as error:
            raise await services.remedies.explain_put(error, owner, data.items) from error
        change = schemas.ItemsChange(
            results=[
                schemas.ItemResult(
                    line_id=outcome.line_id,
                    sku=outcome.sku,
                    code=outcome.code,
                    requested_quantity=outcome.requested_quantity,
                    available_quantity=outcome.available_quantity,
                )
                for outcome in result.outcomes
            ],
            summary=cast(Any, msgspec.Raw(services.text.summary(result.summary))),
            version=result.summary.version,
        )
        return await _answer_or_cart(services, request, owner, change, is_replay=result.replayed)

    @delete(
        status_code=200,
        operation_class=CartMutation,
        operation_id="ClearCart",
        summary="Clear the cart",
        responses=responses(401, 403, 412, 422, 503, 504),
    )
    async def clear(self, request: AnyRequest) -> Response[schemas.CartChange]:
        """Removes all lines; all holds go back. With `Prefer: return=representation` the answer is the whole
        cart."""
        services = services_of(request)
        owner, guard = await cart_calls.changer_of(services, context_of(request))
        try:
            result = await services.store.clear_cart(owner, guard=guard)
        except CartError as error:
            raise await services.remedies.explain(error, owner) from error
        return await _cart_answer(services, request, owner, result)

    @post(
        "/validate",
        status_code=200,
        operation_class=CartMutation,
        operation_id="ValidateCart",
        summary="Check whether the cart can be bought",
        responses=responses(400, 401, 403, 404, 412, 413, 415, 422, 503, 504),
    )
    async def validate(
        self, request: AnyRequest, data: JSONBody[schemas.ChosenLines | None] = None
    ) -> Response[schemas.Validation]:
        """Tries to hold again what lapsed, and tells per line what stands in the way of buying it. Does not
        change the version. A repeated key of a call that held something again holds nothing, and tells what
        stands in the way by now."""
        services = services_of(request)
        owner, guard = await cart_calls.changer_of(services, context_of(request))
        line_ids = data.line_ids if data is not None else None
        try:
            result = await services.store.validate_cart(owner, line_ids, guard=guard)
        except CartError as error:
            raise await services.remedies.explain(error, owner) from error
        cart = result.cart
        products = await services.store.products_by_revision(views.revisions_of(cart.lines))
        settings = services.settings
        verdict = views.validation_view(
            cart,
            line_ids,
            products,
            currency=settings.currency,
            quantity_max=settings.max_quantity_per_line,
            left_to_buy=await _left_to_buy(services, owner, cart, products),
        )
        return answer(verdict, is_replay=result.replayed)

    @post(
        "/holds/extend",
        status_code=200,
        operation_class=CartMutation,
        operation_id="ExtendHolds",
        summary="Extend the holds",
        responses=responses(401, 403, 412, 422, 503, 504),
    )
    async def extend_holds(self, request: AnyRequest) -> Response[schemas.Cart]:
        """Extends all holds up to their cap, and tries to hold again what lapsed. Answers the cart; a
        repeated key extends nothing and is answered the cart as it is by now."""
        services = services_of(request)
        owner, guard = await cart_calls.changer_of(services, context_of(request))
        try:
            result = await services.store.extend_holds(owner, guard=guard)
        except CartError as error:
            raise await services.remedies.explain(error, owner) from error
        body, etag = await services.text.cart(result.cart, owner.kind)
        replayed = (REPLAYED,) if result.replayed else NO_HEADERS
        return Answer(body, 200, (*replayed, (b"etag", etag))).response()

    @post(
        "/changes/check",
        status_code=200,
        operation_class=CartRead,
        operation_id="CheckChanges",
        summary="See what changed",
        responses=responses(400, 401, 404, 413, 415, 422, 503),
    )
    async def check_changes(
        self, request: AnyRequest, data: JSONBody[schemas.ChosenLines | None] = None
    ) -> Response[schemas.ChangesCheck]:
        """Tells per line (all when none are named) what changed since the buyer saw it. Changes nothing."""
        services, context = services_of(request), context_of(request)
        owner = services.callers.reader(context)
        line_ids = data.line_ids if data is not None else None
        try:
            cart = await services.store.check_changes(owner, line_ids)
        except CartError as error:
            raise await services.remedies.explain(error, owner) from error
        products = await services.store.products_by_revision(views.revisions_of(cart.lines))
        return answer(views.changes_view(cart, line_ids, products, currency=services.settings.currency))

    @post(
        "/changes/accept",
        status_code=200,
        operation_class=CartMutation,
        operation_id="AcceptChanges",
        summary="Accept changes",
        responses=responses(400, 401, 403, 404, 409, 412, 413, 415, 422, 503, 504),
    )
    async def accept_changes(
        self, request: AnyRequest, data: JSONBody[schemas.ChosenLines | None] = None
    ) -> Response[schemas.CartChange]:
        """Takes the current prices, options and texts of lines (all when none are named) as seen. A line that
        is sold in another currency by now can only be removed. With `Prefer: return=representation` the
        answer is the whole cart."""
        services = services_of(request)
        owner, guard = await cart_calls.changer_of(services, context_of(request))
        try:
            result = await services.store.accept_changes(
                owner, data.line_ids if data is not None else None, guard=guard
            )
        except CartError as error:
            raise await services.remedies.explain(error, owner) from error
        return await _cart_answer(services, request, owner, result)


def _put_items(items: Sequence[schemas.PutItem]) -> list[model.PutItem | model.PutItemByLine]:
    """Raises VALIDATION_FAILED, naming every entry that is none."""
    read: list[model.PutItem | model.PutItemByLine] = []
    errors: list[schemas.FieldError] = []
    for number, item in enumerate(items):
        try:
            read.append(_put_item(item, number))
        except (ProblemError, InvalidField) as error:
            errors.append(schemas.FieldError(field=error.field or "items", detail=str(error)))
    if errors:
        raise ProblemError("VALIDATION_FAILED", errors[0].detail, field=errors[0].field, errors=errors)
    return read


def _put_item(item: schemas.PutItem, number: int) -> model.PutItem | model.PutItemByLine:
    """A SKU names the line together with the properties; a line id alone names a line that is there."""
    if item.sku is None:
        if item.line_id is None:
            field = f"items[{number}].sku"
            raise ProblemError("VALIDATION_FAILED", f"{field}: name a sku or a line_id.", field=field)
        return model.PutItemByLine(line_id=item.line_id, quantity=item.quantity)
    properties_json = canonical_properties(item.properties, f"items[{number}].properties")
    if item.line_id is not None and item.line_id != model.line_id_of(item.sku, properties_json):
        if item.properties is None and model.sku_of(item.line_id) == item.sku:
            return model.PutItemByLine(line_id=item.line_id, quantity=item.quantity)
        field = f"items[{number}].line_id"
        raise ProblemError(
            "VALIDATION_FAILED", f"{field} is not the line of this sku and these properties.", field=field
        )
    return model.PutItem(sku=item.sku, quantity=item.quantity, properties_json=properties_json)


async def _left_to_buy(
    services: Services, owner: model.Owner, cart: model.Cart, products: views.Products
) -> dict[str, int]:
    """By SKU, what the owner may still buy of those that have a purchase limit."""
    found = {}
    for line in cart.lines:
        now = products.get(line.current_revision)
        variant = now.variant(line.sku) if now is not None else None
        if variant is not None and variant.max_per_customer is not None and line.sku not in found:
            found[line.sku] = await services.store.left_to_buy(owner, variant) or 0
    return found


async def _cart_answer(
    services: Services, request: AnyRequest, owner: model.Owner, result: model.CartResult
) -> Response[Any]:
    change = schemas.CartChange(
        summary=cast(Any, msgspec.Raw(services.text.summary(result.summary))), version=result.summary.version
    )
    return await _answer_or_cart(services, request, owner, change, is_replay=result.replayed)


async def _answer_or_cart(
    services: Services,
    request: AnyRequest,
    owner: model.Owner,
    change: schemas.ItemsChange | schemas.CartChange,
    *,
    is_replay: bool,
) -> Response[Any]:
    """What the mutation did, or the whole cart when the caller prefers that."""
    found = await cart_calls.answer_or_cart(
        services, context_of(request), owner, msgspec.json.encode(change), is_replay=is_replay
    )
    return found.response()


CONTROLLERS: Sequence[type[Controller]] = (GuestController, CartController)
