"""Goal: a full disk stops what would need space, ends nothing for good, and the shop is whole when space is
back.

Method: `cartstore up` on a small file system of its own (a tmpfs, which only root can mount: without root
this test fails, because nothing else fills up as a disk does). A file takes the space: down to the reserve,
down to a quarter of it, and at last all of it at once, under load, so that the engine meets ENOSPC before
anybody looked. The database and the shop are started on a full disk as well."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from acceptance.calling import Caller, calling, new_key, until
from acceptance.running import Shop, eventually, is_alive, private_folder
from chaos.small_disk import Disk, small_disk

RESERVE_MB = 40
SKU = "FULL-1"
UNITS = 1_000
PRODUCT = {"title": "Full", "currency": "USD", "variants": [{"sku": SKU, "price": "11.00"}]}
COUNT = {"on_hand": 900, "reason": "count", "reference": "while full"}


@pytest.fixture
def disk() -> Iterator[Disk]:
    with small_disk() as disk:
        yield disk


async def pay(caller: Caller, payment_id: str) -> tuple[int, str]:
    call = await caller.pay(payment_id)
    return call.status, call.body.get("status")


async def test_shop_refuses_what_needs_space_and_is_whole_when_there_is_some_again(disk: Disk) -> None:
    shop = Shop(disk.path / "shop", processes=1, disk_reserve_mb=RESERVE_MB)
    # What it prints goes to the full disk as well.
    shop.start()
    assert disk.free_mb() > 2 * RESERVE_MB, "the disk is too small for the test"
    try:
        async with calling(shop.url) as callers:
            admin = callers.bearer("admin", shop.token("admin", "admin"))
            await admin.put_product("full", SKU, stock=UNITS)
            ann = callers.bearer("ann", shop.token("ann"))
            ben = callers.bearer("ben", shop.token("ben"))
            orders = []
            for _ in range(3):
                assert (await ann.add(SKU)).status == 201
                begun = await ann.check_out()
                orders.append(begun.body["orders"][0]["payment_id"])
            assert (await ann.add(SKU)).status == 201

            # Below the reserve.
            disk.leave_mb(RESERVE_MB * 0.8)
            refused = await until(lambda: _refusal(ben))
            assert (refused.status, refused.body["code"]) == (503, "STORE_FULL")
            assert (await ann.check_out()).code == "STORE_FULL"
            assert await pay(ann, orders[0]) == (200, "paid")
            assert (await ann.get("/v1/products/full"))["id"] == "full"
            await shop.books().until_archived()

            # Below a quarter of it.
            disk.leave_mb(RESERVE_MB * 0.2)
            refused = await until(lambda: _pay_refusal(ann, orders[1]))
            assert (refused.status, refused.body["code"]) == (503, "STORE_FULL")
            assert (await ben.add(SKU)).code == "STORE_FULL"
            assert (await admin.call("PUT", f"/v1/admin/stock/{SKU}", COUNT)).status == 503
            assert (await admin.call("PUT", "/v1/admin/products/full", PRODUCT)).status == 503
            product = await ann.get("/v1/products/full")
            assert product["variants"][0]["sku"] == SKU
            pids = [pid for name in ("engine", "postgres", "api", "worker") for pid in shop.pids(name)]

            disk.clear()
            await until(lambda: _is_ok(ben))
            assert await pay(ann, orders[1]) == (200, "paid")
            assert [
                pid for name in ("engine", "postgres", "api", "worker") for pid in shop.pids(name)
            ] == pids

            # Full before anybody could look, with writers.
            (engine,) = shop.pids("engine")
            # The watch stands still, so the engine meets the full disk for certain.
            os.kill(shop.pid, signal.SIGSTOP)
            disk.fill()
            await until(lambda: _ends(engine, ben))
            os.kill(shop.pid, signal.SIGCONT)
            await asyncio.to_thread(eventually, lambda: "The engine ended" in shop.text())
            # The engine ended, and was started again on the full disk, where it takes no writes.
            await until(lambda: _is_full(ben))
            assert disk.free_mb() < 1
            assert "The engine ended" in shop.text()
            disk.clear()
            await until(lambda: _is_ok(ben))
            assert await pay(ann, orders[2]) == (200, "paid")
            assert shop.is_running()

            # The database ends, and finds no space for its own files when it is started.
            os.kill(shop.pid, signal.SIGSTOP)
            (database,) = shop.kill("postgres")
            await until(lambda: _has_ended(database))
            (shop.data_dir / "postgres" / "postmaster.pid").unlink()
            disk.fill()
            os.kill(shop.pid, signal.SIGCONT)
            await asyncio.to_thread(eventually, lambda: "the database needs 24 MB to start" in shop.text())
            disk.clear()
            await until(lambda: _has_product(ann))
            await until(lambda: _is_ok(ben))
            await shop.books().assert_agree({SKU: UNITS})

            shop.stop()
            disk.leave_mb(2)
            shop.spawn()
            await asyncio.to_thread(eventually, lambda: "a start needs 34 MB" in shop.text())
            assert shop.stop() == 0
            disk.fill()
            shop.spawn()
            await asyncio.to_thread(eventually, lambda: "a start needs 34 MB" in shop.text())
            disk.clear()
            await asyncio.to_thread(shop.until_ready)
            await shop.books().assert_agree({SKU: UNITS})
    finally:
        if shop.is_running():
            shop.stop()


def test_first_start_on_a_small_disk_makes_nothing_and_says_what_is_needed() -> None:
    with small_disk(60) as disk, private_folder() as elsewhere:
        shop = Shop(disk.path / "shop", processes=1)
        shop.output = elsewhere / "shop.txt"
        shop.spawn()
        eventually(lambda: not shop.is_running())
        assert shop.exit_status() == 1
        assert "has 60 MB left; a new shop needs 116 MB: 52 for its files" in shop.text()
        assert "a quarter of CARTSTORE_DISK_RESERVE_MB (256)" in shop.text()
        assert not list(disk.path.iterdir())


async def _refusal(caller: Caller) -> object:
    call = await caller.add(SKU, key=new_key())
    if call.status == 503:
        return call
    # However late the shop looks at its disk, the cart must not meet its own limit first.
    await caller.call("DELETE", "/v1/cart")
    return None


async def _has_ended(pid: int) -> bool:
    return not is_alive(pid)


async def _has_product(caller: Caller) -> bool:
    return bool((await caller.call("GET", "/v1/products/full")).status == 200)


async def _is_full(caller: Caller) -> bool:
    """Whether an add is refused for want of space; before the engine is back it is STORE_UNAVAILABLE."""
    return (await caller.add(SKU, key=new_key())).code == "STORE_FULL"


async def _ends(engine: int, caller: Caller) -> bool:
    """Write until the engine has met the full disk."""
    await _refusal(caller)
    return not is_alive(engine)


async def _pay_refusal(caller: Caller, payment_id: str) -> object:
    """Of a payment that cannot be settled: the loop ends with the first refusal, or fails when it is paid."""
    call = await caller.call("DELETE", "/v1/cart")
    if call.status != 503:
        return None
    return await caller.pay(payment_id)


async def _is_ok(caller: Caller) -> bool:
    return (await caller.add(SKU, key=new_key())).status == 201
