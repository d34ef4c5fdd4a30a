"""What the processes do that the crash matrix kills: one story each, told again and again up to its death.

They run in processes of their own, so the failpoint's SIGKILL is a real one, seen by engine and database.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable
from typing import Final

import cartstore
from cartstore import Owner, Product, Settings, Variant
from cartstore.archive.drain import drain
from cartstore.model import PaymentResult, PurchaseLimit
from cartstore.recovery.reconcile import Reconciler
from cartstore.store import CartStore

ANN: Final = Owner("user", "ann")
BEN: Final = Owner("guest", "ben")
KEY: Final = "the one order"

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["cartstore.wiring"])


async def check_out(store: CartStore) -> PaymentResult:
    """Buy the cart under one key and pay; every step may be a repetition of one that a death cut off."""
    checkout = await store.begin_checkout(
        ANN, idempotency_key=KEY, gateway="simulated", payment_method="card", line_ids=["a", "b"]
    )
    return await store.apply_verdict(checkout.payment.payment_id, "succeeded")


async def put_tee(store: CartStore, *, limited: set[str]) -> None:
    """A product of three SKUs; of the limited ones a customer may buy three within a day."""
    limit = PurchaseLimit(quantity=3, window_seconds=86_400)
    variants = tuple(
        Variant(
            sku=sku,
            options={"Size": sku},
            price_minor=1_000,
            policy="deny",
            max_per_customer=limit if sku in limited else None,
        )
        for sku in ("a", "b", "c")
    )
    await store.put_product(
        Product(id="tee", title="Tee", currency="USD", options=("Size",), variants=variants)
    )


async def _check_out(store: CartStore) -> None:
    await check_out(store)


async def _drain(store: CartStore) -> None:
    await check_out(store)
    # So that there is a batch to read ahead, and one to trim meanwhile.
    await drain(store.archive, store._outbox, batch=1)
    await store.drain_outbox()


async def _quarantine(store: CartStore) -> None:
    # Behind the event that is refused, so that the batch has to be halved.
    await check_out(store)
    await store.drain_outbox()


async def _snapshot(store: CartStore) -> None:
    await store.snapshot_carts()


async def _reconcile(store: CartStore) -> None:
    await Reconciler(store, confirm_seconds=0.05).run()


async def _limit_what_was_bought(store: CartStore) -> None:
    await check_out(store)
    await put_tee(store, limited={"a", "b"})


async def _open_only(_: CartStore) -> None:
    """Opening a store recovers it."""


STORIES: Final[dict[str, Callable[[CartStore], Awaitable[None]]]] = {
    "checkout": _check_out,
    "settle": _check_out,
    "drain": _drain,
    "quarantine": _quarantine,
    "snapshot": _snapshot,
    "reconcile": _reconcile,
    "purchases": _limit_what_was_bought,
    "recovery": _open_only,
    "rebuild": _open_only,
}


def settings_of(redis_url: str, database_url: str, **others: object) -> Settings:
    return Settings(
        redis_url=redis_url,
        database_url=database_url,
        jwt_secret="of the tests, and long enough for that",
        **others,  # type: ignore[arg-type]
    )


def _act(redis_url: str, database_url: str, failpoint: str) -> None:
    async def act() -> None:
        settings = settings_of(redis_url, database_url, failpoint=failpoint)
        async with cartstore.open_store(settings, doorbell=lambda: None) as store:
            await STORIES[failpoint.split(".")[0]](store)

    asyncio.run(act())


async def act_until_death(redis_url: str, database_url: str, failpoint: str) -> int | None:
    """Tell the failpoint's story in a process of its own; its exit code, -9 for a failpoint reached."""
    process = _processes.Process(target=_act, args=(redis_url, database_url, failpoint))
    process.start()
    await asyncio.to_thread(process.join, 60)
    try:
        return process.exitcode
    finally:
        process.kill()
        process.join()
        process.close()
