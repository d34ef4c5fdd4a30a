"""Goal: a hold whose time is over goes to the next buyer in that same instant, with nobody sweeping, while
10,000 holds of other SKUs are due as well. So does the hold of a payment whose window is over.

Method: an engine and a database with two API processes and nothing else: no worker, no timers. 10,000 holds
are taken and left to fall due. Then the clock that counts, the engine's, is watched: as soon as it says that
one buyer's hold is over, twenty others ask for the unit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime

import msgspec
import pytest

from cartstore import open_store
from cartstore.embedded import Database, Engine
from cartstore.model import Owner, Product, PutItem, Variant
from cartstore.settings import Settings

from .calling import Caller, Callers, calling
from .running import Books, api_process, cartstore, private_folder, token

SECRET = "of the tests, and long enough for HS256"
HOLD_SECONDS = 4
WINDOW_SECONDS = 3

OTHER_SKUS = 1_000
CARTS_EACH = 10
SKUS_PER_CART = 100
RIVALS = 20

_TAG = "{main:0}:"


class Parts:
    """What runs: two addresses, no worker, and the way to the numbers."""

    def __init__(self, urls: list[str], settings: Settings) -> None:
        self.urls = urls
        self.settings = settings
        self.books = Books(settings.redis_url, settings.database_url)

    def now_ms(self) -> int:
        with self.books.engine() as engine:
            seconds, microseconds = engine.time()
        return int(seconds) * 1_000 + int(microseconds) // 1_000

    def due_holds(self, skus: list[str]) -> int:
        """Recorded holds of these SKUs whose time is over: what a sweeper would have released."""
        now = self.now_ms()
        with self.books.engine() as engine, engine.pipeline(transaction=False) as pipeline:
            for sku in skus:
                pipeline.zcount(f"{_TAG}holds:{sku}", "-inf", now)
            return sum(pipeline.execute())


@pytest.fixture
def parts() -> Iterator[Parts]:
    with private_folder() as folder, ExitStack() as stack:
        engine = Engine(folder / "engine", password="of the tests")
        # Not the shared one, whose commits do not wait for the disk: the API refuses such a database.
        database = Database(folder / "postgres")
        for part in (engine, database):
            stack.callback(part.stop)
            part.start()
        values: dict[str, object] = {
            "redis_url": engine.url(),
            "database_url": database.url(),
            "jwt_secret": SECRET,
            "hold_ttl_guest_seconds": HOLD_SECONDS,
            "hold_ttl_member_seconds": HOLD_SECONDS,
            "payment_window_seconds": WINDOW_SECONDS,
        }
        status, text = cartstore("migrate", **values)
        assert status == 0, text
        urls = [
            stack.enter_context(api_process(folder / "none", folder / f"api{n}.txt", values))
            for n in range(2)
        ]
        yield Parts(urls, msgspec.convert(values, Settings))


async def test_a_hold_goes_on_in_the_instant_it_ends_when_nobody_sweeps(parts: Parts) -> None:
    others = await _shop_with_due_holds(parts)

    async with calling(parts.urls[0]) as first, calling(parts.urls[1]) as second:
        await first.bearer("admin", _token("admin", "admin")).put_product("last", "LAST-1", stock=1)

        # --- a cart's hold ------------------------------------------------------------------------
        holder = first.guest("holder")
        added = await holder.add("LAST-1")
        assert added.status == 201, added
        refused = await second.guest("hasty").add("LAST-1")
        expires_at = _ms(added.body["line"]["hold"]["expires_at"])
        if parts.now_ms() < expires_at:
            assert (refused.status, refused.code) == (409, "INSUFFICIENT_STOCK"), refused
        await _until(parts, expires_at)

        winner = await _one_of_many(first, second)

        lapsed = await holder.get("/v1/cart")
        assert [(line["sku"], line["hold"], line["is_available"]) for line in lapsed["items"]] == [
            ("LAST-1", None, False)
        ]
        assert lapsed["version"] == added.body["version"]

        # --- a payment's hold ---------------------------------------------------------------------
        begun = await winner.check_out()
        assert begun.status == 201, begun
        await _until(parts, _ms(begun.body["payment"]["expires_at"]))

        await _one_of_many(first, second)

        order = await winner.get(f"/v1/orders/{begun.body['orders'][0]['order_id']}")
        assert (order["status"], order["release_reason"]) == ("released", "expired")
        returned = await winner.get("/v1/cart")
        assert [(line["sku"], line["hold"]) for line in returned["items"]] == [("LAST-1", None)]

        # --- and nobody had swept -----------------------------------------------------------------
        assert parts.due_holds(others) == OTHER_SKUS * CARTS_EACH
        level = await first.guest().get(f"/v1/stock/{others[0]}")
        assert (level["held"], level["available"]) == (0, CARTS_EACH)
        for callers in (first, second):
            callers.history.assert_no_defect()


async def _shop_with_due_holds(parts: Parts) -> list[str]:
    """The other SKUs, every unit of them under a hold that falls due soon; past the API, to be quick."""
    skus = [f"OTHER-{number}" for number in range(OTHER_SKUS)]
    async with open_store(parts.settings) as store:
        for start in range(0, OTHER_SKUS, 500):
            chosen = skus[start : start + 500]
            await store.put_product(
                Product(
                    id=f"other-{start}",
                    title="Other",
                    options=("Kind",),
                    currency="USD",
                    variants=tuple(
                        Variant(sku=sku, options={"Kind": sku}, price_minor=100) for sku in chosen
                    ),
                )
            )
        for start in range(0, OTHER_SKUS, SKUS_PER_CART):
            chosen = skus[start : start + SKUS_PER_CART]
            await asyncio.gather(
                *(store.adjust_stock(sku, CARTS_EACH, reason="count", reference="first") for sku in chosen)
            )
            await asyncio.gather(
                *(
                    store.put_lines(
                        Owner("guest", f"{start}-{number}"), [PutItem(sku=sku, quantity=1) for sku in chosen]
                    )
                    for number in range(CARTS_EACH)
                )
            )
        latest = parts.now_ms() + HOLD_SECONDS * 1_000
    await _until(parts, latest)
    assert parts.due_holds(skus) == OTHER_SKUS * CARTS_EACH
    return skus


async def _one_of_many(first: Callers, second: Callers) -> Caller:
    """Twenty ask at once through both processes for the one unit: exactly one gets it."""
    rivals = [(first, second)[n % 2].guest(f"rival{n}") for n in range(RIVALS)]
    calls = await asyncio.gather(*(rival.add("LAST-1") for rival in rivals))
    assert sorted(call.status for call in calls) == [201] + [409] * (RIVALS - 1), calls[:2]
    return next(rival for rival, call in zip(rivals, calls, strict=True) if call.status == 201)


async def _until(parts: Parts, at_ms: int) -> None:
    while parts.now_ms() < at_ms:  # noqa: ASYNC110 (the engine's clock sets no event)
        await asyncio.sleep(0.01)


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


def _token(user: str, scope: str) -> str:
    return token(SECRET, user, scope)
