"""What follows when the engine refuses a command in the middle of a script.

The engine undoes nothing of such a script. Scripts write in an order in which units are held and never free,
so nothing is sold twice; but something may be held by nobody, and a checkout may be half there. What the
script was about is looked at at once, in the process that called it. What can be proved is repaired. A SKU
whose counters stay in doubt is frozen until a person decides, and an error is logged. If this process dies
first, the round of reconcile finds the same later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cartstore.errors import StoreError
from cartstore.model import payment_id_of_order, sku_of
from cartstore.recovery.drift import COUNTERS, LEDGER, Drift
from cartstore.recovery.looks import Subject
from cartstore.recovery.reconcile import CONFIRM_SECONDS, Reconciler
from cartstore.redis.caller import translate
from cartstore.redis.keys import Keys

if TYPE_CHECKING:
    from cartstore.store import CartStore

RETRY_SECONDS: Final = 1.0
RETRY_SECONDS_MAX: Final = 60.0
"""Between two attempts to look: the engine may still refuse what the look needs."""

KEYS_MAX: Final = 10_000
"""Keys that wait to be looked at. With more, the round of reconcile finds the rest."""

FREEZING: Final = COUNTERS | LEDGER | {"unreadable", "sku_lost"}

_log = logging.getLogger("cartstore.recovery")


class CutOffScripts:
    """Collects what scripts that were cut off have touched, and looks at it in the background."""

    def __init__(self, client: Redis, keys: Keys, *, confirm_seconds: float = CONFIRM_SECONDS) -> None:
        """`client` decodes responses. `confirm_seconds`: between a suspicion and the second look."""
        self._client = client
        self._confirm_seconds = confirm_seconds
        self._keys = keys
        self._touched: dict[str, None] = {}
        self._has_any = asyncio.Event()

    def note(self, keys: Sequence[str]) -> None:
        """A script with these keys was cut off."""
        if len(self._touched) < KEYS_MAX:
            self._touched.update(dict.fromkeys(keys))
        self._has_any.set()

    async def watch(self, store: CartStore) -> None:
        """Look at whatever is noted, until cancelled."""
        pause_seconds = RETRY_SECONDS
        while True:
            await self._has_any.wait()
            self._has_any.clear()
            # Taken out before the look: a script may be cut off at the same keys while it runs, after it has
            # read them.
            touched, self._touched = list(self._touched), {}
            try:
                await self.look(store, touched)
            except StoreError as error:
                _log.warning("what a script that was cut off has changed cannot be looked at yet: %s", error)
                self.note(touched)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, RETRY_SECONDS_MAX)
                continue
            except Exception:
                # A defect; the round of reconcile looks at the same things, one by one.
                _log.exception("what a script that was cut off has changed could not be looked at")
            pause_seconds = RETRY_SECONDS

    async def look(self, store: CartStore, touched: Iterable[str]) -> list[Drift]:
        """Look at what these keys are about, repair what is safe, freeze the SKUs that stay in doubt. What is
        left. Raises StoreUnavailable, StoreRecovering, OutcomeUnknown."""
        await store.drain_outbox()
        subjects = await self._subjects_of(touched)
        left = await Reconciler(store, confirm_seconds=self._confirm_seconds).look_at(subjects)
        skus = {its.name for its in subjects if its.what == "sku"}
        doubtful = sorted({its.subject for its in left if its.kind in FREEZING} & skus)
        if doubtful:
            why = "The engine cut a script off, and the counters are in doubt: " + "; ".join(
                sorted({its.detail for its in left if its.subject in doubtful})
            )
            await store.freeze_skus(doubtful, why)
            _log.error("SKUs are frozen: %s (%s)", ", ".join(doubtful), why)
        for drift in left:
            _log.error("drift of %s: %s (%s)", drift.subject, drift.detail, drift.kind)
        return left

    async def _subjects_of(self, touched: Iterable[str]) -> list[Subject]:
        """The carts, payments and orders that keys belong to, and every SKU that they name."""
        subjects: dict[Subject, None] = {}
        for key in touched:
            kind, _, name = key.removeprefix(self._keys.prefix).partition(":")
            if kind == "cart":
                subjects[Subject("cart", name)] = None
                subjects.update(dict.fromkeys(await self._skus_of_cart(name)))
            elif kind == "sku":
                subjects[Subject("sku", name)] = None
            elif kind in ("payment", "order"):
                payment_id = payment_id_of_order(name) if kind == "order" else name
                subjects[Subject("payment", payment_id)] = None
                subjects.update(dict.fromkeys(await self._orders_of(payment_id)))
        return list(subjects)

    async def _skus_of_cart(self, cart_id: str) -> list[Subject]:
        names = await self._read(self._client.hkeys(self._keys.cart(cart_id)))
        lines = (name.removeprefix("l:") for name in names if name.startswith("l:"))
        return [Subject("sku", sku_of(line_id)) for line_id in lines]

    async def _orders_of(self, payment_id: str) -> list[Subject]:
        """Orders are numbered from 1, with or without their payment."""
        found: list[Subject] = []
        number = 1
        while True:
            order_id = f"o{payment_id[1:]}-{number}"
            fields = await self._read(self._client.hgetall(self._keys.order(order_id)))
            if not fields:
                return found
            found.append(Subject("order", order_id))
            lines = (text for name, text in fields.items() if name[:1] == "l" and name[1:].isdigit())
            found += [Subject("sku", text.split("\x1f")[1]) for text in lines if text.count("\x1f") > 1]
            number += 1

    async def _read(self, reading: Any) -> Any:
        try:
            return cast(Any, await reading)
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error
