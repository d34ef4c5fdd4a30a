"""The multiplexed connection against the real engine: ways in, replies, and an engine that is stopped,
killed, paused, full, or made a replica."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis
import redis.asyncio
from wire_server import ECHO, on_both_loops

from cartstore.embedded import Engine
from cartstore.errors import ContractError, OutcomeUnknown, PartlyApplied, StoreFull, StoreUnavailable
from cartstore.layout import LAYOUT
from cartstore.redis.caller import ClientCaller, PooledCaller, open_pool
from cartstore.redis.scripts import Script
from cartstore.redis.wire import WireCaller

COUNT = Script("count", "return {redis.call('INCR', KEYS[1]), ARGV[1], ARGV[2]}")
"""Counts its runs; answers the count, the identity and its first argument."""

COUNTER = "{test:0}:counter"


async def count(caller: WireCaller, payload: str | int) -> Any:
    return await caller.call(COUNT, (COUNTER,), (payload,))


async def count_until_answered(caller: WireCaller, payload: str | int) -> Any:
    while True:
        try:
            return await count(caller, payload)
        except (StoreUnavailable, OutcomeUnknown):
            await asyncio.sleep(0.01)


async def count_unless_unknown(caller: WireCaller, payload: str | int) -> Any:
    """Again, when it was sent in the moment before a loss was seen."""
    while True:
        try:
            return await count(caller, payload)
        except OutcomeUnknown:
            continue


class History:
    """What callers were told, under load. `failed` calls were not applied, `unknown` ones may have been."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()
        self.is_over = False

    async def call_until_over(self, caller: WireCaller, name: int) -> None:
        chance = random.Random(name)
        for n in range(1_000_000):
            if self.is_over:
                return
            payload = f"{name}/{n}"
            task = asyncio.ensure_future(count(caller, payload))
            if chance.random() < 0.05:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                reply = await task
            except asyncio.CancelledError:
                self.told["unknown"] += 1
            except OutcomeUnknown:
                self.told["unknown"] += 1
            except StoreUnavailable:
                self.told["failed"] += 1
                # As a buyer would, and not as fast as a processor can.
                await asyncio.sleep(0.001)
            else:
                assert reply[2] == payload
                self.told["ok"] += 1

    def check(self, runs: int) -> None:
        """Every call that was told to be applied was, and none that was told not to be."""
        assert self.told["ok"] <= runs <= self.told["ok"] + self.told["unknown"]


async def under_load(caller: WireCaller, harm: Callable[[History], Any]) -> History:
    """Fifty callers until `harm` is done; whatever a caller asserted is raised."""
    history = History()
    callers = [asyncio.ensure_future(history.call_until_over(caller, name)) for name in range(50)]
    try:
        await harm(history)
    finally:
        history.is_over = True
        await asyncio.gather(*callers)
    return history


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 (what it waits for tells nobody that it happened)
        await asyncio.sleep(0.001)


async def some_calls(history: History, more: int = 300) -> None:
    """Until so many more calls were answered."""
    target = history.told["ok"] + more
    await until(lambda: history.told["ok"] >= target)


# --- ways in -----------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("way", ["unix", "tcp"])
async def test_call_is_answered_by_every_way_in(engine: Engine, redis_url: str, way: str) -> None:
    url = redis_url if way == "unix" else engine.tcp_url()
    async with WireCaller.open(url) as caller:
        reply = await caller.call(ECHO, ("gate",), ("käse",))
        with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            names = [entry["name"] for entry in client.client_list()]
            run_id = client.info("server")["run_id"]

        assert reply[2] == "käse"
        assert reply[1].startswith(f"{LAYOUT}/{run_id}:")
        assert "cartstore" in names


@on_both_loops
@pytest.mark.parametrize(("password", "says"), [("wrong", "WRONGPASS"), ("", "NOAUTH")])
async def test_calls_are_refused_when_the_password_is_wrong(
    engine: Engine, redis_url: str, password: str, says: str
) -> None:
    async with WireCaller.open(f"redis://:{password}@127.0.0.1:{engine.port}") as caller:
        with pytest.raises(StoreUnavailable, match=says):
            await caller.call(ECHO, ("gate",), (1,))


@on_both_loops
async def test_user_of_an_acl_may_call_what_it_is_allowed_to(own: Engine, admin: Any) -> None:
    admin.acl_setuser(
        "shop", enabled=True, passwords=["+a b"], keys=["{test:*"], commands=["+@all", "-client"]
    )
    url = f"redis://shop:a%20b@127.0.0.1:{own.port}"
    async with WireCaller.open(url) as caller:
        assert (await count(caller, 1))[2] == "1"

        # Keys that it has no rights to, first; then it is gone, and its connections with it.
        with pytest.raises(StoreUnavailable, match="NOPERM"):
            await caller.call(COUNT, ("elsewhere",), (1,))
        admin.acl_deluser("shop")
        with pytest.raises(StoreUnavailable, match="WRONGPASS"):
            await count_unless_unknown(caller, 2)


@on_both_loops
async def test_calls_work_on_the_database_that_the_url_names(engine: Engine, redis_url: str) -> None:
    async with WireCaller.open(engine.url(5)) as caller:
        await count(caller, 1)

    with redis.Redis.from_url(engine.url(5)) as fifth, redis.Redis.from_url(redis_url) as first:
        assert (fifth.get(COUNTER), first.get(COUNTER)) == (b"1", None)


# --- replies -----------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize(
    "returned",
    [
        "1",
        "-9007199254740991",
        "'käse'",
        "''",
        "false",
        "{}",
        "{1, 'two', {3, {'four'}}, ''}",
        "{'OK', false, 3}",
        "redis.status_reply('FINE')",
        "redis.call('PING')",
        "string.rep('x', 3000000)",
        "redis.call('LRANGE', KEYS[1], 0, -1)",
    ],
)
async def test_reply_is_the_same_as_through_redis_py(redis_url: str, returned: str) -> None:
    script = Script("returns", f"redis.call('RPUSH', KEYS[2], 1) return {returned}")
    pool = open_pool(redis_url)
    try:
        async with WireCaller.open(redis_url) as caller:
            keys = ("{test:0}:empty", "{test:0}:list")
            ours = await caller.call(script, keys, ())
            theirs = await PooledCaller(pool).call(script, keys, ())

        assert ours == theirs
        assert type(ours) is type(theirs)
    finally:
        await pool.disconnect()


@on_both_loops
async def test_errors_of_scripts_are_told_apart_and_shift_nothing(redis_url: str) -> None:
    faults = [
        Script("fault", "return redis.error_reply('CARTBADARG quantity')"),
        Script("wrong", "return redis.call('NOSUCHCOMMAND')"),
        Script("typo", "this is not lua"),
        Script("nested", "return {'OK', redis.error_reply('within')}"),
    ]
    async with WireCaller.open(redis_url) as caller:
        calls = []
        for n in range(200):
            calls += [caller.call(faults[n % 4], (COUNTER,), (n,)), count(caller, n)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

        told = {faults[n % 4].name: type(outcome) for n, outcome in enumerate(outcomes[::2])}
        # What "wrong" wrote before the engine refused its command is not undone.
        assert told == {
            "fault": ContractError,
            "wrong": PartlyApplied,
            "typo": ContractError,
            "nested": ContractError,
        }
        assert [outcome[2] for outcome in outcomes[1::2]] == [str(n) for n in range(200)]


# --- harm under load ---------------------------------------------------------------------------


@on_both_loops
async def test_scripts_are_brought_again_when_the_engine_forgets_them(own: Engine, admin: Any) -> None:
    async with WireCaller.open(own.url()) as caller:

        async def flush(history: History) -> None:
            for _ in range(20):
                admin.script_flush()
                await some_calls(history, 100)

        history = await under_load(caller, flush)

    assert history.told["failed"] == 0
    history.check(int(admin.get(COUNTER)))


@on_both_loops
@pytest.mark.parametrize("through", ["wire", "redis-py"])
async def test_function_is_kept_for_later_calls_when_the_engine_forgot_it(
    own: Engine, admin: Any, through: str
) -> None:
    """A caller that only brought the text each time would be right, and slow."""
    library = (
        f"#!lua name=counting\nredis.register_function('counting', function(KEYS, ARGV) {COUNT.source} end)"
    )
    counting = Script("count", COUNT.source, library=library, function="counting")
    async with AsyncExitStack() as stack:
        if through == "wire":
            caller: Any = await stack.enter_async_context(WireCaller.open(own.url()))
        else:
            pool = open_pool(own.url())
            stack.push_async_callback(pool.disconnect)
            caller = PooledCaller(pool)
        for expected in range(1, 5):
            reply = await caller.call(counting, (COUNTER,), ("x",))
            assert reply[0] == expected
            if expected == 2:
                admin.function_flush("SYNC")

    assert len(admin.function_list()) == 1
    assert admin.info("commandstats")["cmdstat_fcall"]["calls"] >= 2


@pytest.mark.parametrize("through", ["wire", "pool", "client"])
@pytest.mark.parametrize("says", ["READONLY", "NOREPLICAS", "NOPERM"])
async def test_refusal_means_the_same_through_every_caller_when_the_engine_takes_no_writes(
    own: Engine, admin: Any, through: str, says: str
) -> None:
    """redis-py takes the first word off some errors, and not off others."""
    admin.acl_setuser("shop", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all"])
    url = f"redis://shop:pw@127.0.0.1:{own.port}"
    async with AsyncExitStack() as stack:
        if through == "wire":
            caller: Any = await stack.enter_async_context(WireCaller.open(url))
        elif through == "pool":
            pool = open_pool(url)
            stack.push_async_callback(pool.disconnect)
            caller = PooledCaller(pool)
        else:
            client = redis.asyncio.Redis.from_url(url)
            stack.push_async_callback(client.aclose)
            caller = ClientCaller(client)
        await caller.call(COUNT, (COUNTER,), ("before",))
        if says == "READONLY":
            admin.replicaof("127.0.0.1", 1)
        elif says == "NOREPLICAS":
            admin.config_set("min-replicas-to-write", 1)
        else:
            admin.acl_setuser("shop", enabled=True, keys=["*"], commands=["-evalsha"])

        with pytest.raises(StoreUnavailable, match=says):
            await caller.call(COUNT, (COUNTER,), ("refused",))


async def test_killed_connections_leave_no_reply_shifted(own: Engine, admin: Any) -> None:
    async with WireCaller.open(own.url()) as caller:

        async def kill(history: History) -> None:
            for _ in range(8):
                await some_calls(history, 100)
                admin.client_kill_filter(_type="normal", skipme=True)

        history = await under_load(caller, kill)

    history.check(int(admin.get(COUNTER)))


@on_both_loops
async def test_calls_of_a_paused_engine_are_unknown_and_run_later(own: Engine, admin: Any) -> None:
    async with WireCaller.open(own.url(), call_timeout_seconds=0.3) as caller:
        await count(caller, "before")
        admin.client_pause(600_000, all=False)
        outcomes = await asyncio.gather(*(count(caller, n) for n in range(20)), return_exceptions=True)
        admin.client_unpause()

        assert {type(outcome) for outcome in outcomes} == {OutcomeUnknown}
        assert (await count_until_answered(caller, "after"))[2] == "after"


@on_both_loops
async def test_stopped_engine_goes_on_where_it_was(own: Engine, admin: Any) -> None:
    async with WireCaller.open(own.url(), call_timeout_seconds=0.4) as caller:

        async def stop(history: History) -> None:
            for _ in range(3):
                await some_calls(history)
                own.send(signal.SIGSTOP)
                told = history.told["unknown"]
                await until(lambda told=told: history.told["unknown"] >= told + 30)
                await until(lambda: history.told["failed"] > 0)
                own.send(signal.SIGCONT)
            await some_calls(history)

        history = await under_load(caller, stop)

    assert history.told["failed"] > 0
    history.check(int(admin.get(COUNTER)))


@on_both_loops
async def test_killed_engine_is_found_again_under_its_new_identity(own: Engine) -> None:
    async with WireCaller.open(own.url(), wait_seconds=0.5) as caller:
        before = (await count(caller, "before"))[1]

        async def kill(history: History) -> None:
            await some_calls(history)
            own.kill()
            await until(lambda: history.told["failed"] > 0)
            # Blocks the loop as well, as a process that is short of time would be.
            own.start()
            await some_calls(history)

        history = await under_load(caller, kill)
        after = (await count(caller, "after"))[1]

        assert after != before
        assert after == await caller.identity()
        with redis.Redis.from_url(own.url()) as client:
            # Written by the engine before each answer, so a kill loses none that was told.
            history.check(int(client.get(COUNTER)) - 2)


@on_both_loops
async def test_full_engine_refuses_whole(own: Engine, admin: Any) -> None:
    async with WireCaller.open(own.url()) as caller:
        await count(caller, 1)
        admin.config_set("maxmemory", 1)
        with pytest.raises(StoreFull):
            await count(caller, 2)
        admin.config_set("maxmemory", 0)

        assert (await count(caller, 3))[0] == 2


@on_both_loops
async def test_engine_that_becomes_a_replica_and_a_primary_again_has_another_identity(
    own: Engine, admin: Any
) -> None:
    async with WireCaller.open(own.url()) as caller:
        before = (await count(caller, 1))[1]
        admin.replicaof("127.0.0.1", 1)
        with pytest.raises(StoreUnavailable):
            await count(caller, 2)
        admin.replicaof("NO", "ONE")

        after = (await count_until_answered(caller, 3))[1]
        assert after != before
        assert after == await caller.identity()
