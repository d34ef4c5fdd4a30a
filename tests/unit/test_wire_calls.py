"""The multiplexed connection when the engine is there: replies, errors, the backlog, cancelled callers."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from wire_server import (
    ECHO,
    ECHO_FUNCTION,
    ECHO_SEVERAL,
    TappedEndpoint,
    bulk,
    on_both_loops,
    running,
    sizes_of,
    turns,
)

from cartstore.errors import ContractError, OutcomeUnknown, StoreFull, StoreUnavailable, WritesRefused
from cartstore.layout import LAYOUT
from cartstore.redis.caller import PooledCaller, open_pool
from cartstore.redis.scripts import Script
from cartstore.redis.wire import WireCaller
from cartstore.redis.wire.connection import WRITE_BYTES

KEYS = ("{test:0}:gate", "{test:0}:cart:1")
IDENTITY = f"{LAYOUT}/run-1:replication-1"


@pytest.fixture
def path(server_folder: Path, request: pytest.FixtureRequest) -> Path:
    return server_folder / f"{abs(hash(request.node.nodeid)):x}.sock"


def tapped(endpoint: TappedEndpoint, **options: Any) -> WireCaller:
    """No questions for the identity in between, whose replies would set things going as well."""
    return WireCaller(
        endpoint.locate,
        call_timeout_seconds=30,
        connect_timeout_seconds=30,
        identity_seconds=1_000,
        **options,
    )


async def ask(caller: WireCaller, payload: str | int) -> Any:
    return await caller.call(ECHO, KEYS, (payload,))


# --- replies -----------------------------------------------------------------------------------


@on_both_loops
async def test_call_carries_script_keys_identity_and_arguments(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url) as caller:
        reply = await caller.call(ECHO, KEYS, ("käse", 7, ""))

        assert reply == ["OK", IDENTITY, "käse"]
        assert engine.calls == [
            [part.encode() for part in ("EVALSHA", ECHO.sha, "2", *KEYS, IDENTITY, "käse", "7", "")]
        ]


@on_both_loops
@pytest.mark.parametrize("script", [ECHO, ECHO_SEVERAL], ids=["alone", "several"])
@pytest.mark.parametrize("count", [1, 8, 9, 256, 2_000])
async def test_calls_leave_in_one_write_when_they_are_made_in_one_turn(
    path: Path, count: int, script: Script
) -> None:
    async with running(path) as engine:
        endpoint = TappedEndpoint(engine.url)
        async with tapped(endpoint) as caller:
            await caller.call(script, KEYS, ("connected",))
            endpoint.writes.clear()
            engine.commands.clear()

            replies = await asyncio.gather(*(caller.call(script, KEYS, (n,)) for n in range(count)))

            assert [reply[2] for reply in replies] == [str(n) for n in range(count)]
            assert sum(sizes_of(engine.calls)) == count
            assert len(endpoint.writes) == 1


@on_both_loops
async def test_calls_leave_turn_by_turn_when_each_turn_makes_some(path: Path) -> None:
    async with running(path) as engine:
        endpoint = TappedEndpoint(engine.url)
        async with tapped(endpoint) as caller:
            await ask(caller, "connected")
            endpoint.writes.clear()
            engine.held.clear()
            calls = []
            for number in range(5):
                calls += [asyncio.ensure_future(ask(caller, f"{number}.{n}")) for n in range(20)]
                # One turn in which they are made, and one at whose end they leave.
                await asyncio.sleep(0)
                await asyncio.sleep(0)

            assert [written.count(b"EVALSHA") for written in endpoint.writes] == [20] * 5
            engine.held.set()
            await asyncio.gather(*calls)


@on_both_loops
async def test_calls_leave_in_several_writes_when_they_are_large(path: Path) -> None:
    async with running(path) as engine:
        endpoint = TappedEndpoint(engine.url)
        async with tapped(endpoint) as caller:
            await ask(caller, "connected")
            endpoint.writes.clear()
            large = "x" * 100_000

            replies = await asyncio.gather(*(ask(caller, f"{n}{large}") for n in range(50)))

            assert [reply[2] for reply in replies] == [f"{n}{large}" for n in range(50)]
            sizes = [len(written) for written in endpoint.writes]
            assert 5 <= len(sizes) <= 50
            assert max(sizes) < WRITE_BYTES + 101_000


@on_both_loops
async def test_calls_are_written_in_nobodys_context_when_a_caller_has_its_own(path: Path) -> None:
    """What the first caller of a turn carries is nothing that the others' calls may see."""
    carried = ContextVar("carried", default="nothing")
    seen: list[str] = []

    class Keys(list[str]):
        def __iter__(self) -> Iterator[str]:
            seen.append(carried.get())
            return super().__iter__()

    async with running(path) as engine, WireCaller.open(engine.url) as caller:
        await ask(caller, "connected")
        token = carried.set("a caller's")
        await caller.call(ECHO, Keys(KEYS), ("payload",))
        carried.reset(token)

        assert seen == ["nothing"]


@on_both_loops
async def test_call_waits_behind_others_when_they_wait_already(path: Path) -> None:
    async with running(path) as engine:
        endpoint = TappedEndpoint(engine.url)
        async with tapped(endpoint) as caller:
            await ask(caller, "connected")
            endpoint.protocol.pause_writing()
            first = asyncio.ensure_future(ask(caller, 1))
            await turns()
            endpoint.protocol.resume_writing()
            await asyncio.gather(ask(caller, 2), first)

            assert [call[-1] for call in engine.calls] == [b"connected", b"1", b"2"]


@on_both_loops
@pytest.mark.parametrize("piece_bytes", [1, 2, 7])
async def test_replies_are_whole_when_they_come_in_pieces(path: Path, piece_bytes: int) -> None:
    async with running(path, piece_bytes=piece_bytes) as engine, WireCaller.open(engine.url) as caller:
        replies = await asyncio.gather(*(ask(caller, f"käse {n}") for n in range(20)))

        assert [reply[2] for reply in replies] == [f"käse {n}" for n in range(20)]


@on_both_loops
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b":42\r\n", 42),
        (b"+PONG\r\n", "PONG"),
        (b"$-1\r\n", None),
        (b"*0\r\n", []),
        (b"*3\r\n$2\r\nOK\r\n:-1\r\n*2\r\n$1\r\na\r\n*1\r\n:2\r\n", ["OK", -1, ["a", [2]]]),
        (bulk("käse".encode()), "käse"),
        # Not UTF-8: taken off the stream all the same, with each odd byte as a lone surrogate.
        (bulk(b"a\xffb"), "a\udcffb"),
    ],
)
async def test_reply_has_the_types_that_redis_py_gives(path: Path, sent: bytes, expected: Any) -> None:
    async with running(path, answers=[sent]) as engine, WireCaller.open(engine.url) as caller:
        assert await ask(caller, 1) == expected
        assert await ask(caller, 2) == ["OK", IDENTITY, "2"]


# --- errors ------------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", StoreFull),
        (b"-READONLY You can't write against a read only replica.\r\n", WritesRefused),
        (b"-LOADING the dataset is in memory soon\r\n", WritesRefused),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", StoreUnavailable),
        (b"-BUSY a script is running\r\n", WritesRefused),
        (b"-NOPERM no permissions to run the 'evalsha' command\r\n", StoreUnavailable),
        (b"-CARTBADARG quantity\r\n", ContractError),
        (b"-CARTUNREADABLE {main:0}:cart:u.ROOM 1\r\n", ContractError),
        (b"-ERR something else\r\n", ContractError),
    ],
)
async def test_call_raises_what_an_error_means(path: Path, sent: bytes, expected: type[Exception]) -> None:
    async with running(path, answers=[sent]) as engine, WireCaller.open(engine.url) as caller:
        first, second = await asyncio.gather(ask(caller, 1), ask(caller, 2), return_exceptions=True)

        assert type(first) is expected
        assert second == ["OK", IDENTITY, "2"]


@on_both_loops
@pytest.mark.parametrize("piece_bytes", [0, 1])
async def test_call_raises_contract_error_when_an_error_is_inside_of_a_reply(
    path: Path, piece_bytes: int
) -> None:
    # As the whole reply this one would mean that nothing was applied; inside of one it means no such thing.
    nested = b"*3\r\n$2\r\nOK\r\n*1\r\n-OOM within\r\n:1\r\n"
    async with (
        running(path, answers=[nested], piece_bytes=piece_bytes) as engine,
        WireCaller.open(engine.url) as caller,
    ):
        first, second = await asyncio.gather(ask(caller, 1), ask(caller, 2), return_exceptions=True)

        assert isinstance(first, ContractError)
        assert "OOM within" in str(first)
        assert second == ["OK", IDENTITY, "2"]


@on_both_loops
async def test_call_that_cannot_be_packed_fails_alone(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url) as caller:
        calls = [ask(caller, 1), ask(caller, "\ud800"), ask(caller, object()), ask(caller, 4)]  # type: ignore[arg-type]
        replies = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(reply) for reply in replies] == [list, ContractError, ContractError, list]
        assert replies[3][2] == "4"
        assert len(engine.calls) == 2


@on_both_loops
@pytest.mark.parametrize("garbage", [b"what?\r\n", b"+OK\r\n+one more than asked\r\n"])
async def test_connection_is_replaced_when_replies_cannot_be_matched(path: Path, garbage: bytes) -> None:
    async with running(path, answers=[garbage]) as engine, WireCaller.open(engine.url) as caller:
        await asyncio.gather(ask(caller, 1), return_exceptions=True)
        await engine.wait_until(lambda: engine.accepted == 2)

        assert await ask(caller, 2) == ["OK", IDENTITY, "2"]


# --- scripts that the engine does not know ---------------------------------------------------------


@on_both_loops
async def test_unknown_script_is_brought_once_when_many_calls_miss_it(path: Path) -> None:
    async with running(path, knows_script=False) as engine, WireCaller.open(engine.url) as caller:
        replies = await asyncio.gather(*(ask(caller, n) for n in range(20)))

        assert [reply[2] for reply in replies] == [str(n) for n in range(20)]
        brought = [call for call in engine.calls if call[0] == b"EVAL"]
        assert [call[1] for call in brought] == [ECHO.source.encode()]


@on_both_loops
async def test_unknown_script_is_brought_with_the_call_when_it_is_forgotten_again(path: Path) -> None:
    miss = b"-NOSCRIPT No matching script.\r\n"
    async with (
        # All miss; the first brings the text; the others miss again all the same.
        running(path, answers=[miss, miss, miss, b":1\r\n", miss, miss]) as engine,
        WireCaller.open(engine.url) as caller,
    ):
        replies = await asyncio.gather(*(ask(caller, name) for name in "abc"))

        assert replies == [1, ["OK", IDENTITY, "b"], ["OK", IDENTITY, "c"]]
        verbs = [call[0] for call in engine.calls]
        assert verbs == [b"EVALSHA"] * 3 + [b"EVAL", b"EVALSHA", b"EVALSHA", b"EVAL", b"EVAL"]


@on_both_loops
async def test_unknown_script_leaves_the_others_as_they_are(path: Path) -> None:
    other = Script("other", "return 2")
    async with running(path, knows_script=False) as engine, WireCaller.open(engine.url) as caller:
        await ask(caller, 1)
        await asyncio.gather(ask(caller, 2), caller.call(other, KEYS, (3,)))

        assert [call[0] for call in engine.calls] == [b"EVALSHA", b"EVAL", b"EVALSHA", b"EVALSHA"]


@on_both_loops
async def test_unknown_function_is_loaded_once_when_many_calls_miss_it(path: Path) -> None:
    async with running(path, functions=set()) as engine, WireCaller.open(engine.url) as caller:
        replies = await asyncio.gather(*(caller.call(ECHO_FUNCTION, KEYS, (n,)) for n in range(20)))

        assert [reply[2] for reply in replies] == [str(n) for n in range(20)]
        assert [command for command in engine.commands if command[0] == b"FUNCTION"] == [
            [b"FUNCTION", b"LOAD", b"REPLACE", ECHO_FUNCTION.library.encode()]
        ]
        assert {call[0] for call in engine.calls} == {b"FCALL"}
        assert engine.calls[0][1:3] == [b"echo_1", b"2"]


@on_both_loops
async def test_function_is_called_as_a_script_when_the_engine_does_not_take_it(path: Path) -> None:
    async with (
        running(path, functions=set(), takes_functions=False) as engine,
        WireCaller.open(engine.url) as caller,
    ):
        replies = await asyncio.gather(*(caller.call(ECHO_FUNCTION, KEYS, (n,)) for n in range(3)))

        assert [reply[2] for reply in replies] == ["0", "1", "2"]
        assert [call[0] for call in engine.calls][-3:] == [b"EVAL"] * 3
        assert await ask(caller, 4) == ["OK", IDENTITY, "4"]


# --- cancelled callers -------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("piece_bytes", [0, 11])
@pytest.mark.parametrize("script", [ECHO, ECHO_SEVERAL], ids=["each by itself", "several in one"])
async def test_every_caller_gets_its_own_reply_when_others_are_cancelled_at_random(
    path: Path, piece_bytes: int, script: Script
) -> None:
    """Goal: cancelling never shifts a reply. Method: each call carries a payload of its own, a third of the
    callers is cancelled at random moments, and every reply that arrives is compared with its payload."""
    chance = random.Random(7)
    async with (
        running(path, piece_bytes=piece_bytes) as engine,
        WireCaller.open(engine.url, in_flight_max=64) as caller,
    ):
        outcomes: Counter[str] = Counter()

        async def call_many(name: int) -> None:
            for n in range(100):
                task = asyncio.ensure_future(caller.call(script, KEYS, (f"{name}/{n}",)))
                if chance.random() < 0.33:
                    for _ in range(chance.randrange(8)):
                        await asyncio.sleep(0)
                    task.cancel()
                try:
                    reply = await task
                except asyncio.CancelledError:
                    outcomes["cancelled"] += 1
                else:
                    assert reply == ["OK", IDENTITY, f"{name}/{n}"]
                    outcomes["answered"] += 1

        await asyncio.gather(*(call_many(name) for name in range(40)))

        assert outcomes.total() == 4_000
        assert outcomes["cancelled"] > 100
        assert outcomes["answered"] > 2_000
        # Some were cancelled before they were sent and some after, else only one half was tried.
        sent = sizes_of(engine.calls)
        assert outcomes["answered"] < sum(sent) < 4_000
        assert (sum(sent) - len(sent) > 200) == (script is ECHO_SEVERAL)
        assert engine.accepted == 1


@on_both_loops
async def test_cancelled_call_is_never_sent_when_it_was_waiting(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, in_flight_max=1) as caller:
        engine.held.clear()
        first, second, third = (asyncio.ensure_future(ask(caller, n)) for n in (1, 2, 3))
        await engine.wait_for_calls(1)
        second.cancel()
        engine.held.set()

        assert [(await first)[2], (await third)[2]] == ["1", "3"]
        assert [call[-1] for call in engine.calls] == [b"1", b"3"]


@on_both_loops
async def test_reply_of_a_cancelled_call_is_thrown_away_when_it_was_sent(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url) as caller:
        engine.held.clear()
        first, second = (asyncio.ensure_future(ask(caller, n)) for n in (1, 2))
        await engine.wait_for_calls(1)
        first.cancel()
        await turns()
        engine.held.set()

        assert (await second)[2] == "2"
        assert first.cancelled()


# --- the backlog -------------------------------------------------------------------------------


@on_both_loops
async def test_no_more_calls_than_the_bound_are_in_flight(path: Path) -> None:
    async with running(path) as engine:
        endpoint = TappedEndpoint(engine.url)
        async with tapped(endpoint, in_flight_max=4) as caller:
            engine.held.clear()
            calls = [asyncio.ensure_future(ask(caller, n)) for n in range(10)]
            await engine.wait_for_calls(1)
            await turns()

            assert b"".join(endpoint.writes).count(b"EVALSHA") == 4

            engine.held.set()
            assert [(await call)[2] for call in calls] == [str(n) for n in range(10)]


@on_both_loops
async def test_waiting_call_is_refused_unsent_when_there_is_no_room_in_time(path: Path) -> None:
    async with (
        running(path) as engine,
        WireCaller.open(engine.url, in_flight_max=1, wait_seconds=0.05) as caller,
    ):
        engine.held.clear()
        first = asyncio.ensure_future(ask(caller, 1))
        await engine.wait_for_calls(1)

        with pytest.raises(StoreUnavailable):
            await ask(caller, 2)

        engine.held.set()
        assert (await first)[2] == "1"
        assert (await ask(caller, 3))[2] == "3"
        assert [call[-1] for call in engine.calls] == [b"1", b"3"]


@on_both_loops
async def test_call_is_refused_at_once_when_too_many_wait(path: Path) -> None:
    async with (
        running(path) as engine,
        WireCaller.open(engine.url, in_flight_max=1, waiting_max=2) as caller,
    ):
        engine.held.clear()
        first = asyncio.ensure_future(ask(caller, 1))
        await engine.wait_for_calls(1)
        others = [asyncio.ensure_future(ask(caller, n)) for n in (2, 3)]
        await turns()

        with pytest.raises(StoreUnavailable, match="Too many"):
            # Refused before its first await: the loop does not have to turn for it.
            ask(caller, 4).send(None)

        engine.held.set()
        assert [(await call)[2] for call in (first, *others)] == ["1", "2", "3"]


@on_both_loops
async def test_cancelled_waiting_calls_make_room_for_others(path: Path) -> None:
    async with (
        running(path) as engine,
        WireCaller.open(engine.url, in_flight_max=1, waiting_max=2) as caller,
    ):
        engine.held.clear()
        first = asyncio.ensure_future(ask(caller, 1))
        await engine.wait_for_calls(1)
        others = [asyncio.ensure_future(ask(caller, n)) for n in (2, 3)]
        await turns()
        for other in others:
            other.cancel()

        last = None
        while last is None:
            await asyncio.sleep(0.01)
            task = asyncio.ensure_future(ask(caller, 4))
            await turns(3)
            if not task.done():
                last = task
            else:
                assert isinstance(task.exception(), StoreUnavailable)

        engine.held.set()
        assert [(await call)[2] for call in (first, last)] == ["1", "4"]


@on_both_loops
async def test_nothing_is_written_while_the_transport_asks_for_a_pause(path: Path) -> None:
    async with running(path) as engine:
        endpoint = TappedEndpoint(engine.url)
        async with tapped(endpoint) as caller:
            await ask(caller, "connected")
            endpoint.writes.clear()
            endpoint.protocol.pause_writing()
            call = asyncio.ensure_future(ask(caller, 1))
            await turns()

            assert endpoint.writes == []

            endpoint.protocol.resume_writing()
            assert (await call)[2] == "1"


@on_both_loops
async def test_calls_wait_unsent_when_the_engine_does_not_read(path: Path) -> None:
    async with (
        running(path) as engine,
        WireCaller.open(engine.url, wait_seconds=0.1, call_timeout_seconds=0.5) as caller,
    ):
        engine.reading.clear()
        large = "x" * 100_000
        outcomes = await asyncio.gather(*(ask(caller, large) for _ in range(200)), return_exceptions=True)

        kinds = Counter(type(outcome) for outcome in outcomes)
        # What fits into the buffers was sent, and the rest can be told that nothing happened.
        assert set(kinds) == {OutcomeUnknown, StoreUnavailable}
        assert kinds[StoreUnavailable] > 100


# --- identity ----------------------------------------------------------------------------------


@on_both_loops
async def test_identity_is_learned_again_by_itself(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, identity_seconds=0.01) as caller:
        assert (await ask(caller, 1))[1] == IDENTITY

        engine.replication_id = "replication-2"
        asked = len(engine.commands)
        await engine.wait_until(lambda: engine.commands[asked:].count([b"INFO", b"replication"]) >= 2)

        assert (await ask(caller, 2))[1] == f"{LAYOUT}/run-1:replication-2"
        assert engine.accepted == 1


@on_both_loops
async def test_identity_is_asked_of_the_engine_when_somebody_wants_it(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, identity_seconds=1_000) as caller:
        assert await caller.identity() == IDENTITY

        engine.replication_id = "replication-2"

        assert await caller.identity() == f"{LAYOUT}/run-1:replication-2"
        assert (await ask(caller, 1))[1] == f"{LAYOUT}/run-1:replication-2"


@on_both_loops
async def test_identity_raises_store_unavailable_when_the_engine_refuses_it(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, identity_seconds=1_000) as caller:
        await ask(caller, 1)
        engine.greeting_answer = lambda command: b"-NOPERM this user has no permissions\r\n"

        with pytest.raises(StoreUnavailable, match="NOPERM"):
            await caller.identity()


SHIFTS: dict[str, Callable[[list[bytes]], bytes]] = {
    # Each answers with what belongs to the question before, or after.
    "a reply too many": lambda command: bulk(b"# Server\r\nrun_id:other\r\n"),
    "an echo of another question": lambda command: bulk(b"0123456789abcdef" * 2),
    "numbers": lambda command: b":7\r\n",
    "nothing": lambda command: b"$-1\r\n",
}


@on_both_loops
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("of", [b"ECHO", b"INFO"])
async def test_identity_is_never_taken_from_a_reply_to_another_question(
    path: Path, shift: str, of: bytes
) -> None:
    """A call that carries a wrong identity fences the shop."""
    async with running(path) as engine, WireCaller.open(engine.url, identity_seconds=1_000) as caller:
        await ask(caller, 1)
        echoes = itertools.count()

        def answer(command: list[bytes]) -> bytes | None:
            # Of two echoes the second one alone: the first says nothing of what comes after it.
            is_shifted = command[0] == of and (of == b"INFO" or next(echoes) % 2 == 1)
            return SHIFTS[shift](command) if is_shifted else None

        engine.greeting_answer = answer
        if of == b"INFO" and shift == "a reply too many":
            # It looks right, and the other half of the identity is missing.
            engine.greeting_answer = lambda command: (
                SHIFTS[shift](command) if command == [b"INFO", b"replication"] else None
            )
        with pytest.raises(StoreUnavailable, match="do not belong to our questions"):
            await caller.identity()
        engine.greeting_answer = lambda command: None

        assert await caller.identity() == IDENTITY
        assert (await ask(caller, 2))[1] == IDENTITY
        # The replies behind it cannot be trusted either.
        assert engine.accepted == 2
        identities = {call[3 + int(call[2])] for call in engine.calls}
        assert identities == {IDENTITY.encode()}


async def test_pooled_connection_is_refused_when_its_replies_are_shifted(path: Path) -> None:
    async with running(path) as engine:
        engine.greeting_answer = lambda command: (
            bulk(b"# Server\r\nrun_id:other\r\n") if command[0] == b"ECHO" else None
        )
        pool = open_pool(engine.url)

        with pytest.raises(StoreUnavailable) as caught:
            await PooledCaller(pool).call(ECHO, KEYS, (1,))
        assert "do not belong to our questions" in str(caught.value.__cause__)

        assert engine.calls == []
        engine.greeting_answer = lambda command: None
        assert (await PooledCaller(pool).call(ECHO, KEYS, (2,)))[1] == IDENTITY
        await pool.disconnect()


@on_both_loops
async def test_identity_is_learned_again_after_a_loading_answer(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, identity_seconds=1_000) as caller:
        await ask(caller, 1)
        engine.replication_id = "replication-2"
        engine.answers = [b"-LOADING the dataset is in memory soon\r\n"]
        asked = len(engine.commands)
        with pytest.raises(StoreUnavailable):
            await ask(caller, 2)
        await engine.wait_until(lambda: [b"INFO", b"replication"] in engine.commands[asked:])
        # The answer to that question is before this call's on the same stream.
        await ask(caller, 3)

        assert (await ask(caller, 4))[1] == f"{LAYOUT}/run-1:replication-2"
        assert engine.accepted == 1


@on_both_loops
@pytest.mark.parametrize("refusal", [b"-READONLY You can't write\r\n", b"-MOVED 1 127.0.0.1:6381\r\n"])
async def test_connection_is_made_anew_when_the_engine_is_no_primary_any_more(
    path: Path, refusal: bytes
) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, identity_seconds=1_000) as caller:
        await ask(caller, 1)
        engine.run_id = "run-2"
        engine.answers = [refusal]
        # What was sent behind the refused call on the old connection is answered there all the same.
        first, second = await asyncio.gather(ask(caller, 2), ask(caller, 3), return_exceptions=True)
        third = await ask(caller, 4)

        assert isinstance(first, StoreUnavailable)
        assert second == ["OK", IDENTITY, "3"]
        assert third == ["OK", f"{LAYOUT}/run-2:replication-1", "4"]
        assert engine.accepted == 2
        # An engine that stays a replica is not asked as fast as a processor can.
        assert caller._failures == 1
        # The old one ends when its last reply was there.
        await asyncio.wait_for(engine.wait_until(lambda: engine.connections == 1), 30)


@on_both_loops
async def test_connection_is_made_anew_when_the_engine_stops_saying_who_it_is(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, identity_seconds=0.01) as caller:
        await ask(caller, 1)
        engine.greeting_answer = lambda command: b"-NOPERM this user has no permissions\r\n"
        await engine.wait_until(lambda: engine.accepted >= 2)
        engine.greeting_answer = lambda command: None

        while True:
            try:
                assert await ask(caller, 2) == ["OK", IDENTITY, "2"]
                break
            except StoreUnavailable:
                await asyncio.sleep(0.01)
