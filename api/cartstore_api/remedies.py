"""What would solve a problem: the request that a client can send as it is.

Owns the `fix` of every problem that a buyer could solve, the prices inside `shortfalls`, and the current
cart inside VERSION_CONFLICT. It runs only after a refusal, and reads what it needs then; where the engine
or the catalog cannot be asked, the problem goes out without a fix rather than as another problem.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from cartstore import limits, model
from cartstore.catalog.money import to_text
from cartstore.errors import CartError, CartStoreError, InsufficientStock, StoreError, VersionConflict
from cartstore.free_json import canonical_properties
from cartstore.model import Owner
from cartstore.store import CartStore
from cartstore_api import schemas
from cartstore_api.problems import ProblemError, shortfall_of
from cartstore_api.quantities import Rules, rules_of

CART = "/v1/cart"
ITEMS = "/v1/cart/items"

ReadCart = Callable[[Owner], Awaitable[bytes]]
"""Gives a cart as it is told."""


class Remedies:
    """Works out fixes for one store."""

    def __init__(self, store: CartStore, read_cart: ReadCart) -> None:
        self._store = store
        self._read_cart = read_cart

    async def explain(self, error: CartError, owner: Owner) -> ProblemError:
        """A refusal that needs no more than its own fields and the cart."""
        problem = ProblemError.of(error)
        try:
            await self._explain(problem, error, owner)
        except CartStoreError:
            return problem
        return problem

    async def explain_line(
        self,
        error: CartError,
        owner: Owner,
        *,
        line_id: str,
        quantity: int,
        properties: Mapping[str, Any] | None = None,
        is_add: bool = False,
    ) -> ProblemError:
        """A refusal to add to a line or to set it, but for want of units (`fix_short`): the fix sets it to
        what it can have."""
        problem = ProblemError.of(error)
        if not (is_add and problem.code == "ITEM_NOT_FOUND"):
            problem.line_id = problem.line_id or (line_id if problem.code != "PRODUCT_NOT_FOUND" else None)
        try:
            await self._explain(problem, error, owner)
            if problem.code == "INVALID_QUANTITY":
                problem.detail = await self._quantity_detail(line_id, quantity, is_add=is_add)
            if problem.code in ("INVALID_QUANTITY", "LIMIT_EXCEEDED"):
                target = await self._target(problem, owner, line_id, quantity, is_add=is_add)
                if target is not None:
                    problem.fix = _set_line(line_id, target, properties, is_there=not is_add)
            elif problem.code == "PRODUCT_INACTIVE" and is_add:
                # Whether the line is in the cart is not known; what else is on sale is an answer either way.
                problem.suggested_action = "browse_products"
                problem.fix = schemas.Fix(method="GET", path="/v1/products")
            elif problem.code == "PRODUCT_INACTIVE":
                problem.fix = _set_line(line_id, 0, None, is_there=True)
        except CartStoreError:
            return problem
        return problem

    async def explain_put(
        self, error: CartError, owner: Owner, items: Sequence[schemas.PutItem]
    ) -> ProblemError:
        """A refusal of a bulk set: the fix is the same request, in the quantities that can be had."""
        problem = ProblemError.of(error)
        try:
            await self._explain(problem, error, owner)
            if problem.errors:
                await self._name_quantities(problem, problem.errors, items)
            if problem.shortfalls:
                for shortfall in problem.shortfalls:
                    shortfall.detail = await self._limit_detail(shortfall)
                problem.fix = await self._fix_put(problem.shortfalls, items)
                if len(problem.shortfalls) == 1:
                    problem.detail = problem.shortfalls[0].detail or problem.detail
        except CartStoreError:
            return problem
        return problem

    async def explain_checkout(
        self, error: CartError, owner: Owner, body: schemas.BeginCheckout
    ) -> ProblemError:
        """A refusal to check out: the fix brings the cart, or the expected total, to what can be bought."""
        problem = ProblemError.of(error)
        try:
            await self._explain(problem, error, owner)
            if error.shortfalls:
                cart = await self._store.read_cart(owner)
                problem.shortfalls = [_priced(entry, cart.summary.currency) for entry in error.shortfalls]
                problem.fix = await self._fix_lines(error.shortfalls, cart)
            elif problem.code == "TOTAL_CHANGED":
                problem.fix = await self._fix_total(owner, body)
        except CartStoreError:
            return problem
        return problem

    # --- what the problem itself says ----------------------------------------------------------

    async def _explain(self, problem: ProblemError, error: CartError, owner: Owner) -> None:
        if isinstance(error, VersionConflict):
            problem.detail = f"The cart's version is {error.version}."
            problem.cart = cast(Any, msgspec.Raw(await self._read_cart(owner)))
            problem.fix = schemas.Fix(method="GET", path=CART)
        elif problem.code in ("ITEM_NOT_FOUND", "PAYMENT_EXPIRED"):
            problem.fix = schemas.Fix(method="GET", path=CART)
        elif problem.code in ("CART_EMPTY", "PRODUCT_NOT_FOUND"):
            problem.fix = schemas.Fix(method="GET", path="/v1/products")

    # --- one line ------------------------------------------------------------------------------

    async def _target(
        self, problem: ProblemError, owner: Owner, line_id: str, quantity: int, *, is_add: bool
    ) -> int | None:
        """The quantity that the line can have; None when that is not known."""
        sku = model.sku_of(line_id)
        rules = await self._rules(sku)
        cart = await self._store.read_cart(owner)
        line = cart.line(line_id)
        current = line.quantity if line else 0
        wanted = problem.requested_quantity
        if wanted is None:
            wanted = current + quantity if is_add else quantity
        ceiling = await self._ceiling(cart, line, sku)
        target = rules.nearest(wanted, ceiling)
        # What was refused is no fix: some bound is in the way that is not known here.
        return target if target != wanted else None

    async def _ceiling(self, cart: model.Cart, line: model.Line | None, sku: str) -> int:
        """The largest quantity of a line that the cart's own limits leave."""
        settings = self._store.settings
        current, held = (line.quantity, line.held) if line else (0, 0)
        if line is None and len(cart.lines) >= settings.max_lines_per_cart:
            return 0
        ceiling = settings.max_items_per_cart - (cart.summary.total_items - current)
        level = (await self._store.engine.read_stock([sku]))[0]
        if level is not None and level.policy == "deny" and settings.reservations == "on":
            in_orders = sum(
                order_line.held
                for checkout in await self._store.engine.list_payments(cart.cart_id)
                if checkout.payment.status == "pending"
                for order in checkout.orders
                for order_line in order.lines
            )
            in_cart = sum(other.held for other in cart.lines)
            ceiling = min(ceiling, settings.max_held_per_owner - in_orders - (in_cart - held))
            ceiling = min(ceiling, max(0, level.on_hand - level.held) + held)
        return max(0, ceiling)

    async def _variant(self, sku: str) -> model.Variant | None:
        try:
            return await self._store.variant_of(sku)
        except StoreError:
            return None

    async def _rules(self, sku: str) -> Rules:
        return rules_of(await self._variant(sku), self._store.settings.max_quantity_per_line)

    # --- the limit in force ----------------------------------------------------------------------

    async def _quantity_detail(self, line_id: str, quantity: int, *, is_add: bool) -> str:
        """What a quantity may be that was refused, by the shop's limit and the product's rules."""
        rules = await self._rules(model.sku_of(line_id))
        lowest = 1 if is_add else 0
        if lowest <= quantity <= limits.QUANTITY_MAX:
            return f"The line's quantity must be {rules}."
        return f"quantity must be {lowest} to {rules.maximum}."

    async def _name_quantities(
        self, problem: ProblemError, errors: Sequence[schemas.FieldError], items: Sequence[schemas.PutItem]
    ) -> None:
        """Name the product's own maximum in what is wrong with entries' quantities."""
        by_field = {error.field: error for error in errors}
        for number, item in enumerate(items):
            error = by_field.get(f"items[{number}].quantity")
            if error is not None:
                rules = await self._rules(item.sku or model.sku_of(item.line_id or ""))
                error.detail = f"{error.field} must be 0 to {rules.maximum}."
        problem.detail = errors[0].detail

    async def _limit_detail(self, shortfall: schemas.Shortfall) -> str | None:
        """The limit that an entry of a bulk set breaks; None where its code tells enough."""
        if shortfall.code == "INVALID_QUANTITY" and shortfall.sku:
            return f"The line's quantity must be {await self._rules(shortfall.sku)}."
        if shortfall.code != "LIMIT_EXCEEDED":
            return None
        settings = self._store.settings
        if (shortfall.requested_quantity or 0) > settings.max_quantity_per_line:
            return f"A line can have at most {settings.max_quantity_per_line} units."
        return (
            f"A cart can have at most {settings.max_lines_per_cart} lines and {settings.max_items_per_cart} "
            f"units over all lines; at most {settings.max_held_per_owner} units can be held for one buyer."
        )

    # --- several lines -------------------------------------------------------------------------

    async def _fix_put(
        self, shortfalls: Sequence[schemas.Shortfall], items: Sequence[schemas.PutItem]
    ) -> schemas.Fix | None:
        refused = {shortfall.line_id: shortfall for shortfall in shortfalls}
        entries = []
        for item in items:
            shortfall = refused.get(line_id_of_item(item))
            if shortfall is None:
                entries.append(_entry_of(item, item.quantity))
            elif shortfall.code in ("INSUFFICIENT_STOCK", "INVALID_QUANTITY") and shortfall.sku:
                rules = await self._rules(shortfall.sku)
                ceiling = limits.QUANTITY_MAX
                if shortfall.code == "INSUFFICIENT_STOCK":
                    ceiling = shortfall.available_quantity or 0
                entries.append(_entry_of(item, rules.nearest(item.quantity, ceiling)))
        if not entries:
            return None
        # `partial`: what else might stand in the way of one entry must not take the others with it.
        return schemas.Fix(method="PUT", path=ITEMS, body={"items": entries, "mode": "partial"})

    async def _fix_lines(self, shortfalls: Sequence[dict[str, Any]], cart: model.Cart) -> schemas.Fix | None:
        """Quantities come before prices: a line that goes needs no accepting."""
        targets: dict[str, int] = {}
        risen = []
        for entry in shortfalls:
            line = cart.line(entry.get("line_id") or "")
            if line is None:
                continue
            if entry["code"] == "PRICE_CHANGED":
                risen.append(line.line_id)
            elif entry["code"] == "PRODUCT_INACTIVE":
                targets[line.line_id] = 0
            else:
                ceiling = entry.get("available_quantity")
                rules = await self._rules(line.sku)
                targets[line.line_id] = rules.nearest(
                    line.quantity, limits.QUANTITY_MAX if ceiling is None else ceiling
                )
        if len(targets) == 1:
            ((line_id, target),) = targets.items()
            return _set_line(line_id, target, None, is_there=True)
        if targets:
            entries = [{"line_id": line_id, "quantity": target} for line_id, target in targets.items()]
            return schemas.Fix(method="PUT", path=ITEMS, body={"items": entries, "mode": "partial"})
        if risen:
            return schemas.Fix(method="POST", path="/v1/cart/changes/accept", body={"line_ids": risen})
        return None

    async def _fix_total(self, owner: Owner, body: schemas.BeginCheckout) -> schemas.Fix:
        cart = await self._store.read_cart(owner)
        total = sum(
            min(line.unit_price_minor, line.current_price_minor) * line.quantity
            for line in cart.lines
            if body.line_ids is None or line.line_id in body.line_ids
        )
        currency = cart.summary.currency or self._store.settings.currency
        asked = msgspec.to_builtins(msgspec.structs.replace(body, expected_total=to_text(total, currency)))
        return schemas.Fix(method="POST", path="/v1/checkout", body=_without_nulls(asked))


def fix_short(
    error: InsufficientStock, line_id: str, properties: Mapping[str, Any] | None, *, is_there: bool
) -> schemas.Fix | None:
    """What a line can have of which there is not enough, known without asking anyone; None where the engine
    did not say what would fit. `is_there`: the line is in the cart; else that is not known."""
    if error.fitting_quantity is None:
        return None
    return _set_line(line_id, error.fitting_quantity, properties, is_there=is_there)


def line_id_of_item(item: schemas.PutItem) -> str:
    """The line that an entry of a bulk set is about, as the store will call it."""
    if item.sku is None or (item.line_id is not None and item.properties is None):
        return item.line_id or ""
    return model.line_id_of(item.sku, canonical_properties(item.properties))


def _entry_of(item: schemas.PutItem, quantity: int) -> dict[str, Any]:
    named = {"sku": item.sku, "line_id": item.line_id, "properties": item.properties, "quantity": quantity}
    return _without_nulls(named)


def _set_line(
    line_id: str, quantity: int, properties: Mapping[str, Any] | None, *, is_there: bool
) -> schemas.Fix:
    """A request that sets a line, whether it is in the cart (`is_there`) or not known to be."""
    if is_there:
        if quantity == 0:
            return schemas.Fix(method="DELETE", path=f"{ITEMS}/{line_id}")
        return schemas.Fix(method="PATCH", path=f"{ITEMS}/{line_id}", body={"quantity": quantity})
    entry: dict[str, Any] = {"sku": model.sku_of(line_id), "quantity": quantity}
    if properties:
        entry["properties"] = properties
    return schemas.Fix(method="PUT", path=ITEMS, body={"items": [entry]})


def _priced(entry: dict[str, Any], currency: str | None) -> schemas.Shortfall:
    shortfall = shortfall_of(entry)
    if currency is not None and entry.get("old_price_minor") is not None:
        shortfall.old_price = to_text(entry["old_price_minor"], currency)
        shortfall.new_price = to_text(entry["new_price_minor"], currency)
    return shortfall


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
