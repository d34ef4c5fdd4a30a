"""Goal: a right that the engine's user lacks is found before a script needs it; one that is taken away while
scripts run loses nothing that was acknowledged.

Method: users of the engine's ACL whose rights are taken away and given back while a store is open.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import redis.asyncio as redis
from chaos.shop import assert_sound, check_out, opened, stock_up

from cartstore import CartStore, Owner
from cartstore.embedded import Engine
from cartstore.errors import (
    CartStoreError,
    ConfigurationError,
    OutcomeUnknown,
    StoreUnavailable,
)
from cartstore.model import Partition
from cartstore.recovery.reconcile import Reconciler
from cartstore.recovery.report import table
from cartstore.redis.default_user import check_default_user
from cartstore.redis.keys import Keys
from cartstore.redis.rights import KEYED, OTHERS, missing, wanted
from cartstore.redis.scripts import compose, script_names

ALL = ("~*", "&*", "+@all")
ANN, BEN = Owner("user", "ann"), Owner("user", "ben")
_PARTITION = Partition("main")


@pytest.fixture
async def admin(engine: Engine) -> AsyncIterator[redis.Redis]:
    async with redis.Redis.from_url(engine.url(), decode_responses=True) as client:
        yield client
        await client.execute_command("ACL", "DELUSER", "shop")


@pytest.fixture
def shop_url(redis_url: str) -> str:
    """The engine as the user `shop` sees it."""
    scheme, _, place = redis_url.partition("://")
    path, _, options = place.partition("?")
    rest = "&".join(part for part in options.split("&") if not part.startswith("password="))
    return f"{scheme}://{path}?username=shop&password={quote('a password')}&{rest}"


async def allow(admin: redis.Redis, *rules: str) -> None:
    await admin.execute_command("ACL", "SETUSER", "shop", "reset", "on", ">a password", *rules)


def test_rights_name_every_command_when_scripts_are_read() -> None:
    called = {
        name
        for script in script_names()
        for name in re.findall(r"redis[._]call\(\s*'(\w+)'", compose(script))
    }

    assert called - set(KEYED) - {text.split()[0] for text in OTHERS} == set()


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ((*ALL, "-xadd"), "xadd"),
        ((*ALL, "-hset", "-zrem"), "hset, zrem"),
        (
            ("~{main:0}:cart:*", "~{main:0}:gate", "&*", "+@all"),
            "hget on {main:0}:activity, hget on {main:0}:bought:x:x, hget on {main:0}:due",
        ),
        ((*ALL, "-eval"), "eval"),
        ((*ALL, "-fcall"), "fcall"),
    ],
    ids=["one", "several", "keys", "eval", "fcall"],
)
async def test_store_does_not_open_when_rights_are_missing(
    admin: redis.Redis, shop_url: str, database_url: str, rules: tuple[str, ...], told: str
) -> None:
    await allow(admin, *rules)

    with pytest.raises(ConfigurationError) as caught:
        async with opened(shop_url, database_url):
            pass

    assert told in caught.value.message
    assert "a password" not in caught.value.message


async def test_nothing_is_begun_when_a_new_connection_finds_a_right_missing(
    admin: redis.Redis, shop_url: str, database_url: str
) -> None:
    await allow(admin, *ALL)
    async with opened(shop_url, database_url) as store:
        await stock_up(store)
        await allow(admin, *ALL, "-xadd")
        await admin.execute_command("CLIENT", "KILL", "USER", "shop")

        async with asyncio.timeout(10):
            while True:
                with pytest.raises(StoreUnavailable) as caught:
                    await check_out(store, ANN)
                if "xadd" in caught.value.message:
                    break
                await asyncio.sleep(0.02)
        assert not isinstance(caught.value, OutcomeUnknown)
        await allow(admin, *ALL)
        await until_it_works(store)

        await assert_sound(store)


async def until_it_works(store: CartStore) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await store.add_line(BEN, "b")
                return
            except StoreUnavailable:
                await asyncio.sleep(0.05)


BUYERS_COMMANDS = (
    *("xadd", "xrevrange", "hset", "hdel", "hincrby", "hmget", "hgetall", "zadd", "zrem", "zrange"),
    *("pexpire", "persist"),
)


@pytest.mark.parametrize("command", BUYERS_COMMANDS)
async def test_nothing_acknowledged_is_lost_when_a_command_is_refused_for_a_while(
    admin: redis.Redis, shop_url: str, database_url: str, command: str
) -> None:
    await allow(admin, *ALL)
    async with opened(shop_url, database_url) as store:
        await stock_up(store)
        acknowledged = [
            (await check_out(store, Owner("user", f"early{n}"), "a")).payment.payment_id for n in range(3)
        ]
        await store.apply_verdict(acknowledged[0], "succeeded")

        await allow(admin, *ALL, f"-{command}")
        outcomes = await asyncio.gather(
            store.add_line(ANN, "a", 2),
            check_out(store, BEN, "b"),
            store.apply_verdict(acknowledged[1], "succeeded"),
            store.cancel_order(f"o{acknowledged[2][1:]}-1", Owner("user", "early2")),
            store.adjust_stock("c", 5, reason="delivery", reference="2"),
            store.put_lines(Owner("guest", "g"), []),
            return_exceptions=True,
        )
        await allow(admin, *ALL)

        for outcome in outcomes:
            assert not isinstance(outcome, BaseException) or isinstance(outcome, CartStoreError), outcome
        acknowledged += [
            (await check_out(store, Owner("user", f"late{n}"), "b")).payment.payment_id for n in range(5)
        ]
        await store.adjust_stock("c", 5, reason="delivery", reference="2")
        await until_nothing_is_left(store)
        recorded = await store.archive.find_payments(acknowledged)
        frozen = await store.archive.quarantine.frozen()

        assert {payment.payment_id for payment, _ in recorded} == set(acknowledged)
        _, totals = await store.archive.stock_totals(["a", "b", "c"])
        for sku, units in (("a", 100), ("b", 100), ("c", 105)):
            level = await store.read_stock(sku)
            assert level.on_hand + level.sold == units, level
            assert (totals[sku].on_hand, totals[sku].sold) == (level.on_hand, level.sold)
        assert frozen == []


async def until_nothing_is_left(store: CartStore) -> None:
    """What was cut off is looked at in the background, and repaired; the rest is found by reconcile."""
    async with asyncio.timeout(30):
        while True:
            await store.drain_outbox()
            report = await Reconciler(store, confirm_seconds=0.05).run()
            if not report.drift and not report.repaired:
                return
            print(table(report))


def test_missing_rights_are_told_by_command_and_by_key() -> None:
    keys = Keys(partition=_PARTITION)
    asked = wanted(keys)
    refused = ["\x1f".join(words) for words in asked if words[0] in ("HSET", "XADD")]
    refused += ["\x1f".join(words) for words in asked if words[:2] == ("ZREM", keys.due)]

    assert missing(["OK", *refused]) == "xadd, hset, zrem on {main:0}:due"
    assert missing(["OK"]) == ""


class _Asked:
    """A client of which only ACL GETUSER is asked."""

    def __init__(self, user: dict[str, Any] | Exception) -> None:
        self._user = user

    async def acl_getuser(self, name: str) -> dict[str, Any]:
        assert name == "default"
        if isinstance(self._user, Exception):
            raise self._user
        return self._user


SWITCHED_OFF = {"categories": ["-@all"], "keys": [], "flags": ["off"]}
KEEPING_RIGHTS = {"categories": ["+@all"], "keys": ["~*"], "flags": ["off"]}


async def test_redis_7_0_is_refused_when_its_default_user_has_no_rights() -> None:
    """Measured: Redis 7.0.15 drops what scripts wrote at its next start, Valkey does not."""
    with pytest.raises(ConfigurationError, match="default off"):
        await check_default_user(_Asked(SWITCHED_OFF), {}, (7, 0))  # type: ignore[arg-type]

    await check_default_user(_Asked(KEEPING_RIGHTS), {}, (7, 0))  # type: ignore[arg-type]
    await check_default_user(_Asked(SWITCHED_OFF), {}, (7, 2))  # type: ignore[arg-type]
    await check_default_user(_Asked(SWITCHED_OFF), {"valkey_version": "8.0"}, (7, 0))  # type: ignore[arg-type]


async def test_redis_7_0_is_warned_of_when_it_may_not_be_asked(caplog: pytest.LogCaptureFixture) -> None:
    refusal = redis.ResponseError("NOPERM acl|getuser")

    await check_default_user(_Asked(refusal), {}, (7, 0))  # type: ignore[arg-type]

    assert "user default off ~* &* +@all" in caplog.text
