"""Checkout, orders and payments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.params import FromPath, JSONBody

from cartstore import limits, model
from cartstore.errors import CartError, OrderNotFound, PaymentExpired, PaymentNotFound, PaymentState
from cartstore.payments import Gateway, Verdict
from cartstore_api import cart_calls, schemas, views
from cartstore_api.bodies import StrictBody, check_encoding
from cartstore_api.callers import UNKNOWN_GUEST
from cartstore_api.conditions import idempotency_key_of, required_idempotency_key_of
from cartstore_api.context import context_of
from cartstore_api.guards import AUTHENTICATED, CALLED_BY_GATEWAYS
from cartstore_api.operations import CartRead, CheckoutMutation, OrderMutation, OrderRead, Public
from cartstore_api.paging import Cursor, Limit, check_cursor
from cartstore_api.problems import ProblemError, responses
from cartstore_api.services import Services, answer, services_of

AnyRequest = Request[Any, Any, Any]

_ORDER_CURSOR = re.compile(r"(?P<checkout>[0-9]{1,16}:[A-Za-z0-9._-]{1,128})~(?P<skip>[0-9]{1,6})\Z")


class CheckoutController(Controller):
    """From a cart to orders that are paid for together."""

    path = "/v1/checkout"
    tags = ("Checkout",)
    dto = StrictBody
    opt = AUTHENTICATED

    @post(
        status_code=201,
        operation_class=CheckoutMutation,
        operation_id="BeginCheckout",
        summary="Check out",
        responses=responses(400, 401, 403, 404, 409, 412, 413, 415, 422, 503, 504),
    )
    async def begin(
        self, request: AnyRequest, data: JSONBody[schemas.BeginCheckout]
    ) -> Response[schemas.Checkout]:
        """Turns all lines, or those named, into pending orders (one per seller) under one payment, and holds
        them for the payment window. The same `Idempotency-Key` gives the same checkout for ever. Refused,
        with every line named, when a price rose that was not accepted or a line cannot be held."""
        services = services_of(request)
        key = required_idempotency_key_of(context_of(request))
        owner, guard = await cart_calls.changer_of(services, context_of(request))
        try:
            checkout = await services.store.begin_checkout(
                owner,
                idempotency_key=key,
                gateway=data.gateway,
                payment_method=data.payment_method,
                line_ids=data.line_ids,
                expected_total=data.expected_total,
                details=_details_of(data),
                if_match=guard.if_match,
            )
        except CartError as error:
            raise await services.remedies.explain_checkout(error, owner, data) from error
        facts = await views.facts_of_orders(services.store, checkout.orders)
        token = services.callers.order_token(checkout.payment.checkout_id)
        told = views.checkout_view(services.store, checkout, facts, token)
        return answer(told, status=201, is_replay=checkout.replayed)


class OrderController(Controller):
    """What was bought."""

    path = "/v1/orders"
    tags = ("Orders",)
    opt = AUTHENTICATED

    @get(
        operation_class=CartRead,
        operation_id="ListOrders",
        summary="List my orders",
        responses=responses(401, 422, 503),
    )
    async def list(
        self, request: AnyRequest, limit: Limit = limits.PAGE_SIZE_DEFAULT, cursor: Cursor = None
    ) -> Response[schemas.Orders]:
        """The caller's orders, newest first; listed the moment that checkout answers."""
        services = services_of(request)
        owner = services.callers.reader(context_of(request))
        if owner is UNKNOWN_GUEST:
            return answer(schemas.Orders(items=[], next_cursor=None))
        orders, next_cursor = await _page_of(services, owner, limit, check_cursor(cursor))
        facts = await views.facts_of_orders(services.store, orders)
        items = [views.order_view(order, facts) for order in orders]
        return answer(schemas.Orders(items=items, next_cursor=next_cursor))

    @get(
        "/{order_id:str}",
        operation_class=OrderRead,
        operation_id="ReadOrder",
        summary="Read an order",
        responses=responses(401, 404, 503),
    )
    async def read(self, request: AnyRequest, order_id: FromPath[str]) -> Response[schemas.OrderDetail]:
        """With contact, addresses and metadata. By its owner, or with the access token that checkout gave."""
        services = services_of(request)
        owner = services.callers.reader(context_of(request))
        checkout, order = await services.store.read_order(order_id, None)
        if not _may_read(services, request, owner, checkout.payment):
            raise OrderNotFound
        return await _order_answer(services, order, checkout.payment)

    @post(
        "/{order_id:str}/cancel",
        status_code=200,
        operation_class=OrderMutation,
        operation_id="CancelOrder",
        summary="Cancel an order",
        responses=responses(401, 403, 404, 409, 422, 503, 504),
    )
    async def cancel(self, request: AnyRequest, order_id: FromPath[str]) -> Response[schemas.CancelledOrder]:
        """Cancels the whole checkout that it belongs to; its units go back and its lines return to the cart.
        `cancelled_orders` are all orders that went with it, this one too. Repeated: the same answer. Refused
        once it was paid."""
        services = services_of(request)
        idempotency_key_of(context_of(request))
        owner = services.callers.actor(context_of(request))
        result = await services.store.cancel_order(order_id, owner)
        order = next((order for order in result.orders if order.order_id == order_id), None)
        if order is None:
            raise OrderNotFound
        facts = await views.facts_of_orders(services.store, result.orders)
        return answer(views.cancelled_order_view(order, result.payment, result.orders, facts))


class PaymentController(Controller):
    """The one payment of a checkout."""

    path = "/v1/payments"
    tags = ("Payments",)
    dto = StrictBody
    opt = AUTHENTICATED

    @get(
        "/{payment_id:str}",
        operation_class=OrderRead,
        operation_id="ReadPayment",
        summary="Read a payment",
        responses=responses(401, 404, 503),
    )
    async def read(self, request: AnyRequest, payment_id: FromPath[str]) -> Response[schemas.PaymentDetail]:
        """By its owner, or with the access token that checkout gave."""
        services = services_of(request)
        owner = services.callers.reader(context_of(request))
        checkout = await services.store.read_payment(payment_id, None)
        if not _may_read(services, request, owner, checkout.payment):
            raise PaymentNotFound
        return await _payment_answer(services, checkout)

    @post(
        "/{payment_id:str}/confirm",
        status_code=200,
        operation_class=OrderMutation,
        operation_id="ConfirmPayment",
        summary="Confirm a payment",
        responses=responses(400, 401, 403, 404, 409, 413, 415, 422, 503, 504),
    )
    async def confirm(
        self, request: AnyRequest, payment_id: FromPath[str], data: JSONBody[dict[str, Any]]
    ) -> Response[schemas.PaymentDetail]:
        """Takes what the buyer brings back from the gateway's own page; the members are the gateway's.
        Repeated: the same answer."""
        services = services_of(request)
        payment = await _own_payment(services, request, payment_id)
        gateway = services.store.gateways.get(payment.gateway)
        if gateway is None:
            raise PaymentState(f"The gateway {payment.gateway} is not in use here.")
        return await _apply(services, payment_id, gateway.confirm(payment, data))

    @post(
        "/{payment_id:str}/simulate",
        status_code=200,
        operation_class=OrderMutation,
        operation_id="SimulatePayment",
        summary="Simulate a payment's outcome",
        responses=responses(400, 401, 403, 404, 409, 413, 415, 422, 503, 504),
    )
    async def simulate(
        self, request: AnyRequest, payment_id: FromPath[str], data: JSONBody[schemas.Simulate]
    ) -> Response[schemas.PaymentDetail]:
        """For payments of the `simulated` gateway. `fail` is one failed attempt; the payment stays pending.
        The same outcome again is answered alike, a contrary one after settlement refused."""
        services = services_of(request)
        payment = await _own_payment(services, request, payment_id)
        gateway = services.store.gateways.get("simulated")
        if gateway is None or payment.gateway != gateway.name:
            raise PaymentState("Only payments of the simulated gateway can be simulated.")
        return await _apply(services, payment_id, gateway.confirm(payment, {"outcome": data.outcome}))


class WebhookController(Controller):
    """What gateways tell."""

    path = "/v1/webhooks"
    tags = ("Payments",)
    opt = CALLED_BY_GATEWAYS

    @post(
        "/{gateway_name:str}",
        status_code=200,
        operation_class=Public,
        operation_id="ReceiveWebhook",
        summary="Receive a gateway's notification",
        responses=responses(400, 404, 413, 415, 422, 503, 504),
    )
    async def receive(
        self, request: AnyRequest, gateway_name: FromPath[str]
    ) -> Response[schemas.WebhookReceipt]:
        """The signature is checked over the raw body. A success is answered only once the event is durable; a
        repeated one changes nothing."""
        services = services_of(request)
        gateway: Gateway | None = services.store.gateways.get(gateway_name)
        if gateway is None:
            raise ProblemError("NOT_FOUND", "There is no such gateway.")
        check_encoding(context_of(request))
        headers = {name.lower(): value for name, value in request.headers.items()}
        notification = gateway.read_webhook(headers, await request.body())
        if notification is None:
            raise ProblemError("SIGNATURE_INVALID", "The signature does not fit the body.")
        try:
            result = await services.store.apply_verdict(notification.payment_id, notification.verdict)
        except (PaymentState, PaymentExpired):
            # A failed attempt told after the payment was settled or released has nothing left to change; a
            # refusal would have the gateway send it again and again.
            return answer(schemas.WebhookReceipt(status="unchanged"))
        return answer(schemas.WebhookReceipt(status="applied" if result.changed else "unchanged"))


def _details_of(data: schemas.BeginCheckout) -> dict[str, Any]:
    """What is kept with the checkout as it is."""
    details = {
        "contact": data.contact,
        "shipping_address": data.shipping_address,
        "billing_address": data.billing_address,
        "metadata": data.metadata,
    }
    kept: dict[str, Any] = msgspec.to_builtins(
        {name: value for name, value in details.items() if value is not None}
    )
    return kept


async def _page_of(
    services: Services, owner: model.Owner, limit: int, cursor: str | None
) -> tuple[list[model.Order], str | None]:
    """A page of orders out of pages of checkouts, each of which may have several orders."""
    skip, before = 0, cursor
    if cursor is not None and (match := _ORDER_CURSOR.match(cursor)):
        # A page ended inside this checkout. With the mark behind its id, the list begins with itself.
        skip, before = int(match["skip"]), match["checkout"] + "~"
    checkouts, next_cursor = await services.store.list_checkouts(owner, limit=limit + 1, cursor=before)
    orders = [(checkout, n, order) for checkout in checkouts for n, order in enumerate(checkout.orders)][
        skip:
    ]
    page = [order for _, _, order in orders[:limit]]
    if len(orders) <= limit:
        return page, next_cursor
    checkout, n, _ = orders[limit]
    payment = checkout.payment
    return page, f"{payment.created_at_ms}:{payment.payment_id}~{n}"


def _may_read(services: Services, request: AnyRequest, owner: model.Owner, payment: model.Payment) -> bool:
    return payment.cart_id == owner.cart_id or services.callers.has_order_token(
        context_of(request), payment.checkout_id
    )


async def _own_payment(services: Services, request: AnyRequest, payment_id: str) -> model.Payment:
    idempotency_key_of(context_of(request))
    owner = services.callers.actor(context_of(request))
    return (await services.store.read_payment(payment_id, owner)).payment


async def _apply(services: Services, payment_id: str, verdict: Verdict) -> Response[schemas.PaymentDetail]:
    try:
        return await _payment_answer(services, await services.store.apply_verdict(payment_id, verdict))
    except PaymentExpired as error:
        problem = ProblemError.of(error)
        problem.fix = schemas.Fix(method="GET", path="/v1/cart")
        raise problem from error


async def _order_answer(
    services: Services, order: model.Order, payment: model.Payment
) -> Response[schemas.OrderDetail]:
    facts = await views.facts_of_orders(services.store, (order,))
    return answer(views.order_detail_view(order, payment, facts))


async def _payment_answer(
    services: Services, found: model.Checkout | model.PaymentResult
) -> Response[schemas.PaymentDetail]:
    facts = await views.facts_of_orders(services.store, found.orders)
    return answer(views.payment_detail_view(services.store, found, facts))


CONTROLLERS: Sequence[type[Controller]] = (
    CheckoutController,
    OrderController,
    PaymentController,
    WebhookController,
)
