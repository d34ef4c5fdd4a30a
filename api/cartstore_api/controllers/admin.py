"""What a shop's own people and systems do. Every route needs a scope."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from litestar import Controller, Request, Response, delete, get, post, put
from litestar.openapi.spec import OpenAPIHeader, OpenAPIMediaType, OpenAPIResponse, RequestBody
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.openapi.spec.schema import Schema
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream

from cartstore import limits, model
from cartstore.archive.feed import BEGINNING, position_in
from cartstore.archive.order_filters import OrderFilters
from cartstore.catalog.money import to_minor
from cartstore.catalog.rules import FIELDS_NAMED_MAX, check_product
from cartstore.errors import CartError, EventsGone, InvalidField, VersionConflict
from cartstore.recovery.drift import Drift
from cartstore.recovery.reconcile import Reconciler
from cartstore.recovery.report import ReconcileReport
from cartstore_api import schemas, views
from cartstore_api.answers import Answer
from cartstore_api.bodies import StrictBody, check_encoding
from cartstore_api.conditions import product_match_of
from cartstore_api.context import context_of
from cartstore_api.feed_schemas import Events
from cartstore_api.feed_views import feed_event_view, payments_named
from cartstore_api.guards import SCOPE
from cartstore_api.operations import Admin, AdminChange
from cartstore_api.order_csv import MEDIA_TYPE as CSV
from cartstore_api.order_csv import Page, csv_of, wants_csv
from cartstore_api.order_search import (
    EmailFilter,
    FromTime,
    FulfilmentFilter,
    OrderIdFilter,
    PaymentIdFilter,
    SellerFilter,
    SkuFilter,
    Status,
    ToTime,
    text_of,
    time_ms_of,
)
from cartstore_api.paging import Cursor, Limit, check_cursor
from cartstore_api.problems import ProblemError, responses
from cartstore_api.services import Services, answer, services_of

AnyRequest = Request[Any, Any, Any]

CATALOG, STOCK, OPERATIONS, ADMIN = "catalog:write", "stock:write", "ops:read", "admin"

_CART_ID = re.compile(r"[ug]\.[A-Za-z0-9._~-]{1,130}\Z")
_CATALOG_TYPES = frozenset(
    {
        *("text/csv", "application/csv", "text/plain", "application/octet-stream", ""),
        *("application/x-ndjson", "application/ndjson", "application/jsonl"),
    }
)
"""The file's first line tells what it is; clients name it in many ways."""

_ADJUSTMENTS_AT_ONCE = 32

After = Annotated[str | None, QueryParameter(description="`position` of the last event that was read.")]


@dataclass
class ImportOperation(Admin):
    """Its body is a file, which no handler argument describes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # `binary`: generated clients then take a file, and send it as it is.
        text = Schema(
            type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description="A shop's export, in UTF-8."
        )
        self.request_body = RequestBody(
            required=True,
            content={
                "text/csv": OpenAPIMediaType(schema=text),
                "application/x-ndjson": OpenAPIMediaType(schema=text),
            },
        )


@dataclass
class OrderTable(Admin):
    """Its answer is JSON or CSV, which no handler annotation describes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        table = Schema(type=OpenAPIType.STRING, description="A row per order, the columns' names first.")
        for status, found in (self.responses or {}).items():
            if status == "200" and isinstance(found, OpenAPIResponse):
                found.content = {**(found.content or {}), "text/csv": OpenAPIMediaType(schema=table)}
                found.headers = {
                    **(found.headers or {}),
                    "Link": OpenAPIHeader(
                        description="The address of the next page of CSV.",
                        schema=Schema(type=OpenAPIType.STRING),
                    ),
                }


class AdminCatalogController(Controller):
    """Changing what is sold."""

    path = "/v1/admin/products"
    tags = ("Admin: catalog",)
    dto = StrictBody

    @put(
        "/{product_id:str}",
        opt={SCOPE: CATALOG},
        operation_class=AdminChange,
        operation_id="PutProduct",
        summary="Create or change a product",
        responses=responses(400, 401, 403, 412, 413, 415, 422, 503, 504),
        request_max_body_size=4 * 1024 * 1024,
    )
    async def put_product(
        self, request: AnyRequest, product_id: FromPath[str], data: JSONBody[schemas.PutProduct]
    ) -> Response[schemas.Product]:
        """Visible to the next request. Takes what `GET /v1/products/{id}` gives. With `If-Match` only while
        the product is as it was read. Scope: catalog:write."""
        services = services_of(request)
        wanted = _product_of(product_id, data, services.settings.currency)
        try:
            product = await services.store.put_product(wanted, if_match=product_match_of(context_of(request)))
        except VersionConflict as error:
            raise _product_changed(product_id, error) from error
        levels = await services.store.stock_of([product])
        return views.product_answer(product, levels).response()

    @delete(
        "/{product_id:str}",
        status_code=204,
        opt={SCOPE: CATALOG},
        operation_class=AdminChange,
        operation_id="DeleteProduct",
        summary="Delete a product",
        responses=responses(401, 403, 404, 412, 422, 503, 504),
    )
    async def delete_product(self, request: AnyRequest, product_id: FromPath[str]) -> None:
        """Its SKUs are not on sale any more, and free for other products; stock, holds and orders stay. An
        import brings it back only when its rows change. Repeated: the same. Scope: catalog:write."""
        store = services_of(request).store
        try:
            await store.delete_product(product_id, if_match=product_match_of(context_of(request)))
        except VersionConflict as error:
            raise _product_changed(product_id, error) from error

    @post(
        "/import",
        status_code=200,
        opt={SCOPE: CATALOG},
        operation_class=ImportOperation,
        operation_id="ImportProducts",
        summary="Import a catalog",
        responses=responses(401, 403, 413, 415, 422, 503, 504),
        request_max_body_size=limits.IMPORT_BYTES_MAX,
    )
    async def import_products(self, request: AnyRequest) -> Response[schemas.ImportReport]:
        """A shop's export as CSV, or NDJSON with one product a line. Rows that cannot be taken are named with
        line and reason, the rest go in. Importing again changes what the file says otherwise than at its last
        import, never stock; SKUs move to the product whose rows have them. Scope: catalog:write."""
        services = services_of(request)
        check_encoding(context_of(request))
        media_type = (request.headers.get("content-type") or "").partition(";")[0].strip().lower()
        if media_type not in _CATALOG_TYPES:
            raise ProblemError("UNSUPPORTED_MEDIA_TYPE", "This path takes text/csv and application/x-ndjson.")
        with tempfile.TemporaryDirectory(prefix="cartstore-import-") as folder:
            source = Path(folder) / "catalog.csv"
            await _receive(request, source)
            report = await services.store.import_catalog(source)
        return answer(
            schemas.ImportReport(
                products=report.products,
                imported_variants=report.imported_variants,
                changed_products=report.changed_products,
                moved_skus=report.moved_skus,
                notes=[
                    schemas.ImportNote(line=note.line, name=note.name, text=note.text)
                    for note in report.notes
                ],
                rejected=[
                    schemas.RejectedRow(line=row.line, name=row.name, reason=row.reason)
                    for row in report.rejected
                ],
            )
        )


class AdminStockController(Controller):
    """Changing what is there to be sold."""

    path = "/v1/admin/stock"
    tags = ("Admin: stock",)
    dto = StrictBody

    @post(
        "/{sku:str}/adjust",
        status_code=200,
        opt={SCOPE: STOCK},
        operation_class=Admin,
        operation_id="AdjustStock",
        summary="Adjust a SKU's stock",
        responses=responses(400, 401, 403, 404, 409, 413, 415, 422, 503, 504),
    )
    async def adjust(
        self, request: AnyRequest, sku: FromPath[str], data: JSONBody[schemas.AdjustStock]
    ) -> Response[schemas.StockAdjusted]:
        """Adds units (negative: takes away). The same reference with the same content is answered with the
        first result, with other content refused. Scope: stock:write."""
        services = services_of(request)
        result = await services.store.adjust_stock(
            sku, data.delta, reason=data.reason, reference=data.reference
        )
        return await _adjusted_answer(services, result, data.reason, data.reference)

    @post(
        "/adjust",
        status_code=200,
        opt={SCOPE: STOCK},
        operation_class=Admin,
        operation_id="AdjustStocks",
        summary="Adjust the stock of many SKUs",
        responses=responses(400, 401, 403, 404, 409, 413, 415, 422, 503, 504),
        request_max_body_size=1024 * 1024,
    )
    async def adjust_many(
        self, request: AnyRequest, data: JSONBody[schemas.Adjustments]
    ) -> Response[schemas.StocksAdjusted]:
        """A list of adjustments, each on its own. When some are refused the problem names them; the others
        were applied, and the whole list can be sent again: a reference counts once. Scope: stock:write."""
        services = services_of(request)
        outcomes = await _adjust_all(services, data)
        refused = [
            (entry, outcome)
            for entry, outcome in zip(data, outcomes, strict=True)
            if isinstance(outcome, CartError)
        ]
        if refused:
            raise _refusal_of(refused, len(data))
        items = [
            await _adjusted_view(services, outcome, entry.reason, entry.reference)
            for entry, outcome in zip(data, outcomes, strict=True)
            if isinstance(outcome, model.StockResult)
        ]
        return answer(schemas.StocksAdjusted(items=items))

    @put(
        "/{sku:str}",
        opt={SCOPE: STOCK},
        operation_class=Admin,
        operation_id="SetStock",
        summary="Set a SKU's stock",
        responses=responses(400, 401, 403, 404, 409, 413, 415, 422, 503, 504),
    )
    async def set_stock(
        self, request: AnyRequest, sku: FromPath[str], data: JSONBody[schemas.SetStock]
    ) -> Response[schemas.StockAdjusted]:
        """Moves on_hand to a value, applied as a delta; an untracked SKU is limited by stock from then on.
        Refused below what is held, and when `expected_on_hand` differs. Scope: stock:write."""
        services = services_of(request)
        result = await services.store.set_stock(
            sku,
            data.on_hand,
            reason=data.reason,
            reference=data.reference,
            expected_on_hand=data.expected_on_hand,
        )
        return await _adjusted_answer(services, result, data.reason, data.reference)

    @get(
        "/{sku:str}/ledger",
        opt={SCOPE: OPERATIONS},
        operation_class=Admin,
        operation_id="ReadLedger",
        summary="Read a SKU's ledger",
        responses=responses(401, 403, 404, 422, 503),
    )
    async def ledger(
        self,
        request: AnyRequest,
        sku: FromPath[str],
        limit: Limit = limits.PAGE_SIZE_DEFAULT,
        cursor: Cursor = None,
    ) -> Response[schemas.Ledger]:
        """Every change of its on_hand that was archived, newest first. Scope: ops:read."""
        services = services_of(request)
        place = check_cursor(cursor)
        await services.store.read_stock(sku)
        rows, next_cursor = await services.store.archive.ledger(sku, limit=limit, cursor=place)
        items = [views.ledger_entry_view(row) for row in rows]
        return answer(schemas.Ledger(items=items, next_cursor=next_cursor))


class AdminOrderController(Controller):
    """Everybody's orders."""

    path = "/v1/admin/orders"
    tags = ("Admin: operations",)
    dto = StrictBody

    @get(
        opt={SCOPE: OPERATIONS},
        operation_class=OrderTable,
        operation_id="ListAllOrders",
        summary="List orders of all carts",
        responses=responses(401, 403, 422, 503),
    )
    async def list(
        self,
        request: AnyRequest,
        status: Status = None,
        fulfilment: FulfilmentFilter = None,
        email: EmailFilter = None,
        order_id: OrderIdFilter = None,
        payment_id: PaymentIdFilter = None,
        sku: SkuFilter = None,
        seller: SellerFilter = None,
        from_: FromTime = None,
        to: ToTime = None,
        limit: Limit = limits.PAGE_SIZE_DEFAULT,
        cursor: Cursor = None,
    ) -> Response[schemas.Orders]:
        """Archived orders, newest first; those that fulfil every condition. With `Accept: text/csv` a table
        with a row per order: all of them, or one page when `limit` or `cursor` is given (the address of the
        next one is in `Link`). Scope: ops:read."""
        services = services_of(request)
        filters = OrderFilters(
            status=status,
            fulfilment=fulfilment,
            email=text_of(email, "email"),
            order_id=text_of(order_id, "order_id"),
            payment_id=text_of(payment_id, "payment_id"),
            sku=text_of(sku, "sku"),
            seller=text_of(seller, "seller"),
            from_ms=time_ms_of(from_, "from"),
            to_ms=time_ms_of(to, "to"),
        )

        async def page_of(cursor: str | None, limit: int = limits.PAGE_SIZE_MAX) -> Page:
            orders, following = await services.store.archive.list_orders(filters, limit=limit, cursor=cursor)
            facts = await views.facts_of_orders(services.store, orders)
            return [views.order_view(order, facts) for order in orders], following

        if wants_csv(context_of(request)):
            return await _csv_answer(request, page_of, limit, check_cursor(cursor))
        items, next_cursor = await page_of(check_cursor(cursor), limit)
        return answer(schemas.Orders(items=items, next_cursor=next_cursor))

    @get(
        "/{order_id:str}",
        opt={SCOPE: OPERATIONS},
        operation_class=Admin,
        operation_id="ReadAnyOrder",
        summary="Read anybody's order",
        responses=responses(401, 403, 404, 503),
    )
    async def read(self, request: AnyRequest, order_id: FromPath[str]) -> Response[schemas.OrderDetail]:
        """With contact, addresses and metadata; also before it is archived. Scope: ops:read."""
        services = services_of(request)
        checkout, order = await services.store.read_order(order_id, None)
        return await _order_answer(services, order, checkout.payment)

    @post(
        "/{order_id:str}/fulfilment",
        status_code=200,
        opt={SCOPE: ADMIN},
        operation_class=Admin,
        operation_id="SetFulfilment",
        summary="Say what was done with an order",
        responses=responses(400, 401, 403, 404, 409, 413, 415, 422, 503, 504),
    )
    async def fulfil(
        self, request: AnyRequest, order_id: FromPath[str], data: JSONBody[schemas.SetFulfilment]
    ) -> Response[schemas.OrderDetail]:
        """For paid orders: shipped, delivered, returned, with carrier and tracking number, in any order, so
        that mistakes can be corrected. A change is an event of the feed; the same again changes nothing.
        Scope: admin."""
        services = services_of(request)
        await services.store.set_fulfilment(
            order_id, data.state, carrier=data.carrier, tracking=data.tracking
        )
        checkout, order = await services.store.read_order(order_id, None)
        return await _order_answer(services, order, checkout.payment)

    @post(
        "/{order_id:str}/refunded",
        status_code=200,
        opt={SCOPE: ADMIN},
        operation_class=Admin,
        operation_id="CloseRefund",
        summary="Close a refund",
        responses=responses(401, 403, 404, 409, 503, 504),
    )
    async def refunded(self, request: AnyRequest, order_id: FromPath[str]) -> Response[schemas.OrderDetail]:
        """Records that the money of a `refund_due` order went back. Repeated: the same answer.
        Scope: admin."""
        services = services_of(request)
        result = await services.store.close_refund(order_id)
        order = next(order for order in result.orders if order.order_id == order_id)
        return await _order_answer(services, order, result.payment)


class AdminController(Controller):
    """Looking into the machine."""

    path = "/v1/admin"
    tags = ("Admin: operations",)

    @get(
        "/carts/{cart_id:str}",
        opt={SCOPE: OPERATIONS},
        operation_class=Admin,
        operation_id="ReadAnyCart",
        summary="Read anybody's cart",
        responses=responses(401, 403, 404, 503),
    )
    async def cart(self, request: AnyRequest, cart_id: FromPath[str]) -> Response[schemas.Cart]:
        """By its id; an absent cart reads as an empty one. Scope: ops:read."""
        services = services_of(request)
        if not _CART_ID.match(cart_id):
            raise ProblemError("NOT_FOUND", "A cart's id begins with u. or g.")
        cart = await services.store.engine.read_cart(cart_id)
        body, _ = await services.text.cart(cart, "user" if cart_id.startswith("u.") else "guest")
        return Answer(body).response()

    @get(
        "/events",
        opt={SCOPE: OPERATIONS},
        operation_class=Admin,
        operation_id="ListEvents",
        summary="Read the event feed",
        responses=responses(401, 403, 410, 422, 503),
    )
    async def events(
        self, request: AnyRequest, after: After = None, limit: Limit = limits.PAGE_SIZE_DEFAULT
    ) -> Response[Events]:
        """Archived events after a position, oldest first: everything that happened to stock, orders and
        payments, for other systems to follow. `next_cursor` is always there, also at the end: it is what
        `after` takes to go on. Without `after` from the oldest that is kept
        (CARTSTORE_RETENTION_EVENTS_DAYS). Scope: ops:read."""
        feed = services_of(request).store.archive.feed
        position = position_in(after) if after else None
        if after and position is None:
            raise InvalidField("after must be the position of an event.", field="after")
        try:
            events = await feed.read(position, limit)
        except EventsGone as error:
            problem = ProblemError.of(error)
            problem.field = "after"
            problem.fix = schemas.Fix(method="GET", path=f"/v1/admin/events?after={error.after}")
            raise problem from error
        payments = await feed.payments_of(payments_named(events))
        items = [feed_event_view(event, payments) for event in events]
        last = items[-1].position if items else str(position or BEGINNING)
        return answer(Events(items=items, next_cursor=last))

    @get(
        "/reconcile",
        opt={SCOPE: OPERATIONS},
        operation_class=Admin,
        operation_id="CheckConsistency",
        summary="Compare engine and record",
        responses=responses(401, 403, 503),
    )
    async def check(self, request: AnyRequest) -> Response[schemas.Reconciliation]:
        """Goes round once and repairs nothing; `drift` is everything that disagrees. Scope: ops:read."""
        services = services_of(request)
        return answer(_reconciliation(await Reconciler(services.store).run(repair=False)))

    @post(
        "/reconcile",
        status_code=200,
        opt={SCOPE: ADMIN},
        operation_class=Admin,
        operation_id="Reconcile",
        summary="Reconcile engine and record",
        responses=responses(401, 403, 503, 504),
    )
    async def reconcile(self, request: AnyRequest) -> Response[schemas.Reconciliation]:
        """Goes round once and repairs what is provably safe to; `drift` is what could not be repaired. Scope:
        admin."""
        services = services_of(request)
        return answer(_reconciliation(await Reconciler(services.store).run()))

    @get(
        "/stats",
        opt={SCOPE: OPERATIONS},
        operation_class=Admin,
        operation_id="ReadStats",
        summary="Read the deployment's figures",
        responses=responses(401, 403, 503),
    )
    async def stats(self, request: AnyRequest) -> Response[schemas.Stats]:
        """Sizes and readiness at a glance. Scope: ops:read."""
        services = services_of(request)
        found = await services.readiness()
        settings = services.settings
        return answer(
            schemas.Stats(
                namespace=settings.namespace,
                partitions=settings.partitions,
                checkout_ack=services.store.ack_mode,
                products=await services.store.catalog.count(),
                ready=found["ready"],
                status=found["status"],
                checks={name: schemas.Check(**check) for name, check in found["checks"].items()},
            )
        )


def _product_changed(product_id: str, error: VersionConflict) -> ProblemError:
    is_there = f"The product's version is {error.version}." if error.version else "There is no such product."
    return ProblemError(
        "VERSION_CONFLICT",
        is_there,
        field="If-Match",
        suggested_action="read_product",
        fix=schemas.Fix(method="GET", path=f"/v1/products/{product_id}") if error.version else None,
    )


async def _csv_answer(
    request: AnyRequest, page_of: Callable[..., Awaitable[Page]], limit: int, cursor: str | None
) -> Response[Any]:
    """The first page is read before the answer begins, so that what goes wrong with it is a problem."""
    is_paged = "limit" in request.query_params or "cursor" in request.query_params
    headers = {}
    if is_paged:
        orders, following = await page_of(cursor, limit)
        if following is not None:
            query = {**dict(request.query_params), "cursor": following}
            headers["Link"] = f'<{request.url.path}?{urlencode(query)}>; rel="next"'
        first: Page = (orders, None)
    else:
        first = await page_of(None)
    return Stream(csv_of(first, page_of), media_type=CSV, headers=headers)


async def _order_answer(
    services: Services, order: model.Order, payment: model.Payment
) -> Response[schemas.OrderDetail]:
    facts = await views.facts_of_orders(services.store, (order,))
    return answer(views.order_detail_view(order, payment, facts))


def _product_of(product_id: str, data: schemas.PutProduct, currency: str) -> model.Product:
    """The product that a body describes; absent and null members have their defaults. Raises InvalidField,
    naming every field that is wrong."""
    if not model.ID_PATTERN.match(product_id):
        raise InvalidField("A product id is 1 to 128 of A-Z a-z 0-9 . _ ~ -", field="id")
    currency = data.currency or currency
    prices = _Prices()
    product = model.Product(
        id=product_id,
        title=data.title,
        description=data.description,
        seller=data.seller or None,
        active=data.active is not False,
        images=tuple(data.images or ()),
        options=tuple(data.options or ()),
        currency=currency,
        variants=tuple(
            _variant_of(variant, currency, prices, f"variants[{number}]")
            for number, variant in enumerate(data.variants)
        ),
    )
    if prices.refused:
        errors = [(error.field or "", error.message) for error in prices.refused]
        try:
            check_product(product)
        except InvalidField as error:
            errors += error.errors or ()
        first = prices.refused[0]
        first.errors = errors[:FIELDS_NAMED_MAX]
        raise first
    return product


class _Prices:
    """Reads the prices of a product; those that are none are kept, and read as 0 for the time being."""

    def __init__(self) -> None:
        self.refused: list[InvalidField] = []

    def minor(self, text: str, currency: str, field: str) -> int:
        try:
            return to_minor(text, currency, field=field)
        except InvalidField as error:
            self.refused.append(error)
            return 0


def _variant_of(variant: schemas.PutVariant, currency: str, prices: _Prices, at: str) -> model.Variant:
    limit = variant.max_per_customer
    return model.Variant(
        sku=variant.sku,
        options=variant.options or {},
        price_minor=prices.minor(variant.price, currency, f"{at}.price"),
        prices_minor={
            code: prices.minor(text, code, f"{at}.prices.{code}")
            for code, text in (variant.prices or {}).items()
        },
        sale_price_minor=(
            prices.minor(variant.sale_price, currency, f"{at}.sale_price")
            if variant.sale_price is not None
            else None
        ),
        sale_from=variant.sale_from or None,
        sale_to=variant.sale_to or None,
        policy=variant.policy or "deny",
        available_on=variant.available_on or None,
        promised_on=variant.promised_on or None,
        hold_policy=variant.hold_policy or "on_add",
        hold_ttl_seconds=variant.hold_ttl_seconds,
        min_quantity=variant.min_quantity or 1,
        max_quantity=variant.max_quantity,
        multiple_of=variant.multiple_of or 1,
        max_per_customer=(
            model.PurchaseLimit(quantity=limit.quantity, window_seconds=limit.window_seconds)
            if limit is not None
            else None
        ),
    )


async def _receive(request: AnyRequest, target: Path) -> None:
    """Write the body to a file as it comes in: a catalog is larger than a request should be in memory."""
    size = 0
    with target.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            await asyncio.to_thread(file.write, chunk)
    if size == 0:
        raise InvalidField("The body is empty; send a catalog.", field="body")


async def _adjust_all(
    services: Services, entries: Sequence[schemas.AdjustSku]
) -> list[model.StockResult | CartError]:
    """Carry out adjustments, those of one SKU in their order, those of different SKUs side by side."""
    outcomes: dict[int, model.StockResult | CartError] = {}
    by_sku: dict[str, list[int]] = {}
    for number, entry in enumerate(entries):
        by_sku.setdefault(entry.sku, []).append(number)
    at_once = asyncio.Semaphore(_ADJUSTMENTS_AT_ONCE)

    async def adjust(numbers: list[int]) -> None:
        async with at_once:
            for number in numbers:
                entry = entries[number]
                try:
                    outcomes[number] = await services.store.adjust_stock(
                        entry.sku, entry.delta, reason=entry.reason, reference=entry.reference
                    )
                except CartError as error:
                    outcomes[number] = error

    found = await asyncio.gather(*(adjust(numbers) for numbers in by_sku.values()), return_exceptions=True)
    for failure in found:
        if failure is not None:
            raise failure
    return [outcomes[number] for number in range(len(entries))]


def _refusal_of(refused: Sequence[tuple[schemas.AdjustSku, CartError]], count: int) -> ProblemError:
    first = ProblemError.of(refused[0][1])
    first.shortfalls = [
        schemas.Shortfall(code=error.code, sku=entry.sku, detail=error.message) for entry, error in refused
    ]
    first.detail = (
        f"{len(refused)} of {count} adjustments were refused, the others were applied. "
        f"The first: {refused[0][1].message}"
    )
    first.sku = refused[0][0].sku
    return first


async def _adjusted_answer(
    services: Services, result: model.StockResult, reason: str, reference: str
) -> Response[schemas.StockAdjusted]:
    return answer(await _adjusted_view(services, result, reason, reference), is_replay=result.replayed)


async def _adjusted_view(
    services: Services, result: model.StockResult, reason: str, reference: str
) -> schemas.StockAdjusted:
    level = result.level
    if result.replayed:
        # The ledger keeps what the first result was to on_hand; the other counters are as they are now.
        now = await services.store.read_stock(level.sku)
        level = model.StockLevel(
            sku=level.sku,
            policy=now.policy,
            on_hand=level.on_hand,
            held=now.held,
            sold=now.sold,
            backordered=now.backordered,
        )
    return views.adjusted_view(level, result.delta, reason=reason, reference=reference)


def _reconciliation(report: ReconcileReport) -> schemas.Reconciliation:
    return schemas.Reconciliation(
        checked=report.checked,
        repaired=[_drift_view(drift) for drift in report.repaired],
        drift=[_drift_view(drift) for drift in report.drift],
        skipped=report.skipped,
    )


def _drift_view(drift: Drift) -> schemas.Drift:
    return schemas.Drift(
        kind=drift.kind,
        subject=drift.subject,
        detail=drift.detail,
        expected=drift.expected,
        found=drift.found,
    )


CONTROLLERS: Sequence[type[Controller]] = (
    AdminCatalogController,
    AdminStockController,
    AdminOrderController,
    AdminController,
)
