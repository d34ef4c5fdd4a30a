"""What would solve a problem: the request that a client can send as it is.

Owns the `fix` of every problem that a buyer could solve, the prices inside `shortfalls`, and the current
cart inside VERSION_CONFLICT. It runs only after a refusal, and reads what it needs then; where the engine
or the catalog cannot be asked, the problem goes out without a fix rather than as another problem.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

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
from cartstore_api.room import Entry, Room, Wanted

CART = "/v1/cart"
ITEMS = "/v1/cart/items"

BROWSE: Final = schemas.Fix(method="GET", path="/v1/products")
"""Nothing of what was asked for can be had; what else is on sale is an answer in any case."""

BROWSING: Final = "browse_products"

REPLACED_LINES_MAX: Final = 500
"""Lines that one request takes out; of a cart with more, all are cleared."""

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
            if problem.code == "INVALID_QUANTITY" and problem.available_quantity is None:
                problem.detail = await self._quantity_detail(line_id, quantity, is_add=is_add)
            if problem.code in ("INVALID_QUANTITY", "LIMIT_EXCEEDED", "PURCHASE_LIMIT"):
                problem.fix = await self._fix_quantity(
                    problem, owner, line_id, quantity, properties, is_add=is_add
                )
            elif problem.code == "CURRENCY_MISMATCH" and is_add:
                problem.fix = await self._fix_currency(owner, line_id, quantity, properties)
            elif problem.code in ("PRODUCT_INACTIVE", "NOT_YET_ON_SALE") and is_add:
                # Whether the line is in the cart is not known.
                problem.fix = BROWSE
            elif problem.code in ("PRODUCT_INACTIVE", "NOT_YET_ON_SALE", "CURRENCY_MISMATCH"):
                problem.fix = _set_line(line_id, 0, None, is_there=True)
        except CartStoreError:
            return problem
        if problem.fix is BROWSE and problem.code != "PRODUCT_NOT_FOUND":
            problem.suggested_action = BROWSING
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
                problem.fix = await self._fix_put(problem.shortfalls, items, owner)
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
            elif problem.code == "LIMIT_EXCEEDED":
                problem.fix = await self._fix_held(owner, body)
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
            problem.fix = BROWSE
        elif problem.code == "CURRENCY_MISMATCH" and error.line_id and not error.shortfalls:
            problem.fix = _set_line(error.line_id, 0, None, is_there=True)

    # --- one line ------------------------------------------------------------------------------

    async def _fix_quantity(
        self,
        problem: ProblemError,
        owner: Owner,
        line_id: str,
        quantity: int,
        properties: Mapping[str, Any] | None,
        *,
        is_add: bool,
    ) -> schemas.Fix | None:
        """Set the line to the nearest quantity that it can have; make room for one that it cannot have beside
        the others."""
        cart = await self._store.read_cart(owner)
        room = Room(cart, self._store.settings, in_orders=await self._in_orders(cart))
        line = cart.line(line_id)
        current = room.quantity(line_id)
        total = current + quantity if is_add else quantity
        wanted = await self._within_the_sku(await self._wanted(line_id, line), owner, room)
        target = wanted.rules.nearest(total, room.ceiling(wanted))
        if target == total:
            # What was refused is no fix: some bound is in the way that is not known here.
            return None
        if target > current or (not is_add and target):
            return _set_line(line_id, target, properties, is_there=not is_add)
        if wanted.rules.nearest(total, wanted.at_most()) > current:
            return await self._fix_by_making_room(cart, room, wanted, total, properties)
        if target or current:
            return _set_line(line_id, target, properties, is_there=line is not None)
        return BROWSE

    async def _fix_by_making_room(
        self, cart: model.Cart, room: Room, wanted: Wanted, total: int, properties: Mapping[str, Any] | None
    ) -> schemas.Fix | None:
        rules = {line.line_id: await self._rules(line.sku) for line in cart.lines}
        entries = room.make(wanted, total, rules.__getitem__)
        if entries is not None:
            return _put_lines(entries, wanted.line_id, properties)
        return await self._fix_by_cancelling(cart)

    async def _fix_by_cancelling(self, cart: model.Cart) -> schemas.Fix | None:
        """Units of orders that wait for their payment are held for the owner; the oldest is given up. Its
        lines come back into the cart, unheld."""
        pending = [it for it in await self._pending(cart) if _held_of(it)]
        if not pending:
            return None
        order_id = pending[-1].payment.order_ids[0]
        return schemas.Fix(method="POST", path=f"/v1/orders/{order_id}/cancel")

    async def _fix_currency(
        self, owner: Owner, line_id: str, quantity: int, properties: Mapping[str, Any] | None
    ) -> schemas.Fix:
        """A cart has one currency: what is in it makes place for the new line, which is added in the same
        step or not at all."""
        wanted = await self._wanted(line_id, None)
        target = wanted.rules.nearest(quantity, wanted.at_most())
        cart = await self._store.read_cart(owner)
        if not target:
            return BROWSE
        if len(cart.lines) > REPLACED_LINES_MAX:
            return schemas.Fix(method="DELETE", path=CART)
        gone: list[Entry] = [(line.line_id, 0) for line in cart.lines]
        return _put_lines([*gone, (line_id, target)], line_id, properties)

    async def _wanted(self, line_id: str, line: model.Line | None) -> Wanted:
        sku = model.sku_of(line_id)
        variant = await self._variant(sku)
        settings = self._store.settings
        level = (await self._store.engine.read_stock([sku]))[0]
        available, is_held = None, False
        if level is not None and level.policy == "deny":
            available = max(0, level.on_hand - level.held) + (line.held if line else 0)
            is_on_add = variant is None or variant.hold_policy == "on_add"
            is_held = settings.reservations == "on" and is_on_add
        rules = rules_of(variant, settings.max_quantity_per_line)
        return Wanted(line_id=line_id, rules=rules, available=available, is_held=is_held)

    async def _within_the_sku(self, wanted: Wanted, owner: Owner, room: Room) -> Wanted:
        """A line that has no more than its SKU's maximum and purchase limit leave beside the SKU's other
        lines."""
        variant = await self._variant(model.sku_of(wanted.line_id))
        if variant is None:
            return wanted
        most = [variant.max_quantity, await self._store.left_to_buy(owner, variant)]
        beside = room.units_of_sku_beside(wanted.line_id)
        left = [max(0, units - beside) for units in most if units is not None]
        return msgspec.structs.replace(wanted, available=min([wanted.at_most(), *left])) if left else wanted

    async def _pending(self, cart: model.Cart) -> list[model.Checkout]:
        """Payments that are pending, newest first."""
        listed = await self._store.engine.list_payments(cart.cart_id)
        return [checkout for checkout in listed if checkout.payment.status == "pending"]

    async def _in_orders(self, cart: model.Cart) -> int:
        return sum(_held_of(checkout) for checkout in await self._pending(cart))

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
        self, shortfalls: Sequence[schemas.Shortfall], items: Sequence[schemas.PutItem], owner: Owner
    ) -> schemas.Fix | None:
        """The same entries in the quantities that can be had, one after the other; without what cannot be had
        at all, unless it is in the cart. If nothing is left of them, what solves the first."""
        refused = {shortfall.line_id: shortfall.code for shortfall in shortfalls}
        cart = await self._store.read_cart(owner)
        room = Room(cart, self._store.settings, in_orders=await self._in_orders(cart))
        entries = []
        for item in items:
            line_id = line_id_of_item(item)
            code, line = refused.get(line_id), cart.line(line_id)
            target = item.quantity
            if code in ("INSUFFICIENT_STOCK", "INVALID_QUANTITY", "LIMIT_EXCEEDED", "PURCHASE_LIMIT"):
                wanted = await self._within_the_sku(await self._wanted(line_id, line), owner, room)
                target = wanted.rules.nearest(item.quantity, room.ceiling(wanted))
            elif code in ("PRODUCT_INACTIVE", "NOT_YET_ON_SALE", "CURRENCY_MISMATCH"):
                target = 0
            elif code is not None:
                continue
            if target or line is not None or code is None:
                entries.append(_entry_of(item, target))
                room.put(line_id, target)
        if entries:
            # `partial`: what else might stand in the way of one entry must not take the others with it.
            return schemas.Fix(method="PUT", path=ITEMS, body={"items": entries, "mode": "partial"})
        first = next((item for item in items if line_id_of_item(item) in refused), None)
        return await self._fix_first(refused, first, cart, room, owner) if first is not None else None

    async def _fix_first(
        self,
        refused: Mapping[str | None, str],
        item: schemas.PutItem,
        cart: model.Cart,
        room: Room,
        owner: Owner,
    ) -> schemas.Fix | None:
        line_id = line_id_of_item(item)
        code = refused[line_id]
        if code == "ITEM_NOT_FOUND":
            return schemas.Fix(method="GET", path=CART)
        if code == "CURRENCY_MISMATCH":
            return await self._fix_currency(owner, line_id, item.quantity, item.properties)
        wanted = await self._wanted(line_id, None)
        if code == "LIMIT_EXCEEDED" and wanted.rules.nearest(item.quantity, wanted.at_most()):
            return await self._fix_by_making_room(cart, room, wanted, item.quantity, item.properties)
        return BROWSE

    async def _fix_lines(self, shortfalls: Sequence[dict[str, Any]], cart: model.Cart) -> schemas.Fix | None:
        """Quantities come before what is to be accepted: a line that goes needs no accepting."""
        targets: dict[str, int] = {}
        to_accept = []
        room = Room(cart, self._store.settings, in_orders=await self._in_orders(cart))
        for entry in shortfalls:
            line = cart.line(entry.get("line_id") or "")
            if line is None:
                continue
            if entry["code"] in ("PRICE_CHANGED", "LINE_CHANGED") and not line.has_other_currency:
                to_accept.append(line.line_id)
            elif entry["code"] in (
                "PRODUCT_INACTIVE",
                "NOT_YET_ON_SALE",
                "LINE_CHANGED",
                "CURRENCY_MISMATCH",
            ):
                targets[line.line_id] = 0
            else:
                available = entry.get("available_quantity")
                if available is None:
                    available = line.available_quantity
                wanted = msgspec.structs.replace(await self._wanted(line.line_id, line), available=available)
                targets[line.line_id] = wanted.rules.nearest(line.quantity, room.ceiling(wanted))
            if line.line_id in targets:
                room.put(line.line_id, targets[line.line_id])
        if len(targets) == 1:
            ((line_id, target),) = targets.items()
            return _set_line(line_id, target, None, is_there=True)
        if targets:
            entries = [{"line_id": line_id, "quantity": target} for line_id, target in targets.items()]
            return schemas.Fix(method="PUT", path=ITEMS, body={"items": entries, "mode": "partial"})
        if to_accept:
            return schemas.Fix(method="POST", path="/v1/cart/changes/accept", body={"line_ids": to_accept})
        return None

    async def _fix_held(self, owner: Owner, body: schemas.BeginCheckout) -> schemas.Fix | None:
        """Check out the first lines, as many as can be held at once; without any, give up an older order, or
        lower the first line."""
        cart = await self._store.read_cart(owner)
        left = (
            self._store.settings.max_held_per_owner
            - await self._in_orders(cart)
            - sum(line.held for line in cart.lines)
        )
        chosen: list[str] = []
        lines = [line for line in cart.lines if body.line_ids is None or line.line_id in body.line_ids]
        for line in lines:
            left -= line.quantity - line.held if line.policy == "deny" else 0
            if left < 0:
                break
            chosen.append(line.line_id)
        if chosen:
            asked = msgspec.structs.replace(body, line_ids=chosen, expected_total=None)
            return schemas.Fix(
                method="POST", path="/v1/checkout", body=_without_nulls(msgspec.to_builtins(asked))
            )
        if (cancelling := await self._fix_by_cancelling(cart)) is not None or not lines:
            return cancelling
        first = lines[0]
        rules = await self._rules(first.sku)
        return _set_line(
            first.line_id, rules.nearest(first.quantity + left, first.quantity + left), None, is_there=True
        )

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
    if error.fitting_quantity == 0 and not is_there:
        return BROWSE
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


def _put_lines(entries: Sequence[Entry], wanted_id: str, properties: Mapping[str, Any] | None) -> schemas.Fix:
    """A request that sets several lines, all or none. `properties`: the wanted line's, which may be new."""
    items: list[dict[str, Any]] = []
    for line_id, quantity in entries:
        if line_id == wanted_id:
            named = {"sku": model.sku_of(line_id), "properties": properties or None, "quantity": quantity}
            items.append(_without_nulls(named))
        else:
            items.append({"line_id": line_id, "quantity": quantity})
    return schemas.Fix(method="PUT", path=ITEMS, body={"items": items})


def _held_of(checkout: model.Checkout) -> int:
    """Units that a payment's orders hold."""
    return sum(line.held for order in checkout.orders for line in order.lines)


def _priced(entry: dict[str, Any], currency: str | None) -> schemas.Shortfall:
    shortfall = shortfall_of(entry)
    if (
        currency is not None
        and entry.get("old_price_minor") is not None
        # The new price may be one in another currency.
        and entry["code"] not in ("LINE_CHANGED", "CURRENCY_MISMATCH")
    ):
        shortfall.old_price = to_text(entry["old_price_minor"], currency)
        shortfall.new_price = to_text(entry["new_price_minor"], currency)
    return shortfall


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
