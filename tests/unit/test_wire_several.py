"""Calls of one script that leave as one command: each has its own reply, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from wire_server import (
    ECHO,
    ECHO_SEVERAL,
    FakeEngine,
    TappedEndpoint,
    bulk,
    on_both_loops,
    running,
    sizes_of,
    turns,
    values_of,
)

from cartstore.errors import (
    ContractError,
    OutcomeUnknown,
    PartlyApplied,
    StoreFull,
    StoreUnavailable,
    WritesRefused,
)
from cartstore.layout import LAYOUT
from cartstore.redis.wire import WireCaller
from cartstore.redis.wire.several import SEVERAL_MAX

GATE = "{test:0}:gate"
IDENTITY = f"{LAYOUT}/run-1:replication-1"


@pytest.fixture
def path(server_folder: Path, request: pytest.FixtureRequest) -> Path:
    return server_folder / f"{abs(hash(request.node.nodeid)):x}.sock"


async def ask(caller: WireCaller, payload: str | int) -> Any:
    return await caller.call(ECHO_SEVERAL, (GATE, f"cart:{payload}", f"sku:{payload}"), (payload,))


async def answers_to(caller: WireCaller, *payloads: str | int) -> list[Any]:
    return await asyncio.gather(*(ask(caller, payload) for payload in payloads), return_exceptions=True)


@asynccontextmanager
async def connected(
    path: Path, answers: Sequence[bytes | None] = (), **settings: Any
) -> AsyncIterator[tuple[FakeEngine, WireCaller]]:
    """A caller that has been answered once. `answers` are given after that."""
    async with running(path, **settings) as engine, WireCaller.open(engine.url) as caller:
        await ask(caller, "connected")
        engine.commands.clear()
        engine.answers = list(answers)
        yield engine, caller


@asynccontextmanager
async def paused(path: Path) -> AsyncIterator[tuple[FakeEngine, WireCaller, asyncio.Protocol]]:
    """A caller that has been answered once, whose transport asks for a pause."""
    async with running(path) as engine:
        endpoint = TappedEndpoint(engine.url)
        caller = WireCaller(endpoint.locate, call_timeout_seconds=30, connect_timeout_seconds=30)
        async with caller:
            await ask(caller, "connected")
            engine.commands.clear()
            endpoint.protocol.pause_writing()
            yield engine, caller, endpoint.protocol


def part(payload: str) -> bytes:
    return b"*3\r\n" + b"".join(map(bulk, (b"OK", IDENTITY.encode(), payload.encode())))


def echo(payload: str | int) -> list[str]:
    return ["OK", IDENTITY, str(payload)]


@on_both_loops
async def test_calls_leave_as_one_command_when_they_are_of_one_script(path: Path) -> None:
    async with connected(path) as (engine, caller):
        replies = await answers_to(caller, *"abcde")

        assert replies == [echo(payload) for payload in "abcde"]
        [together] = engine.calls
        keys = [GATE, *(f"{kind}:{payload}" for payload in "abcde" for kind in ("cart", "sku"))]
        assert together[:4] == [b"FCALL", b"echoes_1", b"11", GATE.encode()]
        assert together[3:15] == [*map(str.encode, keys), IDENTITY.encode()]
        assert [values_of(packed) for packed in together[15:]] == [[p] for p in "abcde"]


@on_both_loops
async def test_call_leaves_as_it_is_when_no_other_is_made_in_its_turn(path: Path) -> None:
    async with connected(path) as (engine, caller):
        assert await ask(caller, "a") == echo("a")

        [alone] = engine.calls
        assert alone[:2] == [b"FCALL", b"echo_1"]


@on_both_loops
async def test_calls_leave_alone_when_others_stand_between_them(path: Path) -> None:
    async with connected(path) as (engine, caller):
        others = [caller.call(ECHO, (GATE,), (n,)) for n in range(10)]
        replies = await asyncio.gather(*(each for n in range(10) for each in (ask(caller, n), others[n])))

        assert replies == [echo(n) for n in range(10) for _ in range(2)]
        assert {call[1] for call in engine.calls} == {b"echo_1", ECHO.sha.encode()}


@on_both_loops
async def test_calls_leave_alone_when_they_are_of_different_partitions(path: Path) -> None:
    async with connected(path) as (engine, caller):
        gates = [f"{{test:{n % 2}}}:gate" for n in range(8)]
        calls = [caller.call(ECHO_SEVERAL, (gate, "cart", "sku"), (n,)) for n, gate in enumerate(gates)]
        replies = await asyncio.gather(*calls)

        assert replies == [echo(n) for n in range(8)]
        assert sizes_of(engine.calls) == [1] * 8
        assert [call[3].decode() for call in engine.calls] == gates


@on_both_loops
async def test_calls_are_all_answered_when_some_have_no_keys(path: Path) -> None:
    """No script of ours is called so; but then no other caller may pay for it."""
    keys: list[tuple[str, ...]] = [(GATE,), (), (), (GATE,), ()]
    async with connected(path) as (engine, caller), asyncio.timeout(10):
        replies = await asyncio.gather(
            *(caller.call(ECHO_SEVERAL, some, (n,)) for n, some in enumerate(keys))
        )

        assert replies == [echo(n) for n in range(5)]
        assert sizes_of(engine.calls) == [1, 2, 1, 1]


@on_both_loops
async def test_no_command_carries_more_than_the_bound_when_many_wait(path: Path) -> None:
    async with paused(path) as (engine, caller, protocol):
        waiting = asyncio.ensure_future(answers_to(caller, *range(2 * SEVERAL_MAX + 1)))
        await turns()
        protocol.resume_writing()

        assert await waiting == [echo(n) for n in range(2 * SEVERAL_MAX + 1)]
        assert sizes_of(engine.calls) == [SEVERAL_MAX, SEVERAL_MAX, 1]


@on_both_loops
async def test_no_more_calls_than_the_bound_are_in_flight_when_they_leave_together(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, in_flight_max=6) as caller:
        await ask(caller, "connected")
        engine.held.clear()
        waiting = asyncio.ensure_future(answers_to(caller, *range(20)))
        await engine.wait_for_calls(2)
        await turns()
        in_flight = sum(sizes_of(engine.calls[1:]))
        engine.held.set()

        assert await waiting == [echo(n) for n in range(20)]
        assert in_flight <= 6
        assert max(sizes_of(engine.calls)) <= 6


@on_both_loops
async def test_cancelled_calls_are_never_sent_when_they_waited_among_others(path: Path) -> None:
    async with paused(path) as (engine, caller, protocol):
        waiting = [asyncio.ensure_future(ask(caller, n)) for n in range(6)]
        await turns()
        for n in (0, 3, 5):
            waiting[n].cancel()
        await turns()
        protocol.resume_writing()

        assert await asyncio.gather(*(waiting[n] for n in (1, 2, 4))) == [echo(n) for n in (1, 2, 4)]
        assert sizes_of(engine.calls) == [3]


# --- errors ------------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("piece_bytes", [0, 1])
async def test_error_is_of_one_call_when_it_is_in_the_place_of_its_part(path: Path, piece_bytes: int) -> None:
    wrong = b"*6\r\n" + part("a") + part("b") + b"-CARTBADARG quantity\r\n-OOM of the engine\r\n"
    wrong += part("e") + part("f")
    async with connected(path, [wrong], piece_bytes=piece_bytes) as (_, caller):
        replies = await answers_to(caller, *"abcdef")

        assert [replies[n] for n in (0, 1, 4, 5)] == [echo(payload) for payload in "abef"]
        assert type(replies[2]) is ContractError
        assert "CARTBADARG quantity" in str(replies[2])
        assert type(replies[3]) is StoreFull


@on_both_loops
@pytest.mark.parametrize("says", [b"NOSCRIPT No matching script.", b"ERR Function not found"])
async def test_call_is_never_sent_again_when_an_error_is_in_the_place_of_its_part(
    path: Path, says: bytes
) -> None:
    """Its script ran: once more would be twice."""
    wrong = b"*5\r\n" + part("a") + part("b") + b"-" + says + b"\r\n" + part("d") + part("e")
    async with connected(path, [wrong]) as (engine, caller):
        replies = await answers_to(caller, *"abcde")

        assert type(replies[2]) is PartlyApplied
        assert sizes_of(engine.calls) == [5]


@on_both_loops
async def test_call_raises_contract_error_when_an_error_is_inside_of_its_part(path: Path) -> None:
    wrong = b"*5\r\n" + part("a") + part("b") + b"*2\r\n$2\r\nOK\r\n-OOM within\r\n" + part("d") + part("e")
    async with connected(path, [wrong]) as (_, caller):
        replies = await answers_to(caller, *"abcde")

        assert [replies[n] for n in (0, 1, 3, 4)] == [echo(payload) for payload in "abde"]
        assert type(replies[2]) is ContractError
        assert "OOM within" in str(replies[2])


@on_both_loops
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", StoreFull),
        (b"-READONLY You can't write against a read only replica.\r\n", WritesRefused),
        (b"-ERR what is this\r\n", ContractError),
        # Nobody could say whose they are.
        (b"*1\r\n" + part("b"), ContractError),
    ],
)
async def test_every_call_is_told_when_the_command_is_refused(
    path: Path, sent: bytes, expected: type[Exception]
) -> None:
    async with connected(path, [sent]) as (_, caller):
        replies = await answers_to(caller, *"abcde")

        assert [type(reply) for reply in replies] == [expected] * 5
        assert await ask(caller, "f") == echo("f")


@on_both_loops
async def test_call_that_cannot_be_packed_fails_alone_when_others_leave_with_it(path: Path) -> None:
    async with connected(path) as (_, caller):
        odd: list[Any] = [1, 2, "\ud800", 2**70, 3]
        replies = await answers_to(caller, *odd)

        assert [type(reply) for reply in replies] == [list, list, ContractError, list, list]
        assert [replies[n][2] for n in (0, 1, 3, 4)] == [str(odd[n]) for n in (0, 1, 3, 4)]


@on_both_loops
@pytest.mark.parametrize(("count", "sizes"), [(15, [4]), (16, [1] * 4)])
async def test_calls_leave_alone_when_one_has_more_arguments_than_can_be_carried(
    path: Path, count: int, sizes: list[int]
) -> None:
    async with connected(path) as (engine, caller), asyncio.timeout(10):
        long = caller.call(ECHO_SEVERAL, (GATE, "cart", "sku"), tuple(range(count)))
        replies = await asyncio.gather(ask(caller, "a"), ask(caller, "b"), long, ask(caller, "c"))

        assert replies == [echo("a"), echo("b"), echo("0"), echo("c")]
        assert sizes_of(engine.calls) == sizes


@on_both_loops
async def test_calls_are_unknown_when_the_connection_is_lost_after_they_left_together(path: Path) -> None:
    async with connected(path, [None]) as (engine, caller):
        waiting = asyncio.ensure_future(answers_to(caller, *"abcde"))
        await engine.wait_for_calls(1)
        await turns()
        engine.cut()

        assert [type(reply) for reply in await waiting] == [OutcomeUnknown] * 5
        assert await ask(caller, "f") == echo("f")


@on_both_loops
async def test_calls_are_unknown_when_they_left_together_and_the_caller_is_closed(path: Path) -> None:
    async with connected(path, [None]) as (engine, caller):
        waiting = asyncio.ensure_future(answers_to(caller, *"abcde"))
        await engine.wait_for_calls(1)
        await turns()
        await caller.aclose()

        assert [type(reply) for reply in await waiting] == [OutcomeUnknown] * 5
        with pytest.raises(StoreUnavailable):
            await ask(caller, "f")


@on_both_loops
async def test_calls_are_unknown_when_they_left_together_and_their_reply_comes_too_late(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, call_timeout_seconds=0.4) as caller:
        await ask(caller, "connected")
        engine.held.clear()
        replies = await answers_to(caller, *"abcde")

        assert [type(reply) for reply in replies] == [OutcomeUnknown] * 5
        engine.held.set()
        assert await answers_to(caller, *"fghij") == [echo(payload) for payload in "fghij"]
        assert engine.accepted == 1


# --- functions that the engine does not know -------------------------------------------------------


@on_both_loops
async def test_both_functions_are_loaded_once_when_the_engine_knows_neither(path: Path) -> None:
    async with running(path, functions=set()) as engine, WireCaller.open(engine.url) as caller:
        for _ in range(3):
            assert await answers_to(caller, *range(20)) == [echo(n) for n in range(20)]

        loaded = [command[-1] for command in engine.commands if command[0] == b"FUNCTION"]
        assert sorted(loaded) == [b"#!lua name=echo_1\n", b"#!lua name=echoes_1\n"]
        assert {call[0] for call in engine.calls} == {b"FCALL"}
        assert sizes_of(engine.calls)[-3:] == [8, 8, 4]


@on_both_loops
async def test_calls_leave_alone_when_the_engine_takes_no_functions(path: Path) -> None:
    async with (
        running(path, functions=set(), takes_functions=False) as engine,
        WireCaller.open(engine.url) as caller,
    ):
        for _ in range(3):
            assert await answers_to(caller, *range(6)) == [echo(n) for n in range(6)]
        seen = len(engine.calls)
        await answers_to(caller, *range(6))

        assert set(sizes_of(engine.calls[seen:])) == {1}


@on_both_loops
async def test_calls_bring_their_text_when_the_engine_forgets_every_function(path: Path) -> None:
    async with (
        running(path, functions=set(), forgets_functions=True) as engine,
        WireCaller.open(engine.url) as caller,
        asyncio.timeout(10),
    ):
        assert await answers_to(caller, *range(20)) == [echo(n) for n in range(20)]
        assert len(engine.calls) < 80


@on_both_loops
async def test_calls_leave_alone_again_when_what_carries_them_is_forgotten(path: Path) -> None:
    """Goal: whoever missed it is served without it, and who comes later has it again."""
    async with connected(path) as (engine, caller):
        engine.functions.discard(b"echoes_1")

        assert await answers_to(caller, *range(5)) == [echo(n) for n in range(5)]
        assert sizes_of(engine.calls) == [5, 1, 1, 1, 1, 1]
        assert not [command for command in engine.commands if command[0] == b"FUNCTION"]
        assert await answers_to(caller, *range(5)) == [echo(n) for n in range(5)]
        assert sizes_of(engine.calls)[-1] == 5
        # Only what was missed, not the calls' own, which the engine still knows.
        loaded = [command[-1] for command in engine.commands if command[0] == b"FUNCTION"]
        assert loaded == [b"#!lua name=echoes_1\n"]


@on_both_loops
async def test_calls_leave_together_again_when_the_engine_was_too_full_for_functions(path: Path) -> None:
    full = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
    async with connected(path) as (engine, caller):
        engine.functions.discard(b"echoes_1")
        engine.greeting_answer = lambda command: full if command[0] == b"FUNCTION" else None
        for _ in range(3):
            assert await answers_to(caller, *range(5)) == [echo(n) for n in range(5)]
        engine.greeting_answer = lambda command: None
        for _ in range(2):
            await answers_to(caller, *range(5))

        assert sizes_of(engine.calls)[-1] == 5
