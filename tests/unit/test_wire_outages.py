"""The multiplexed connection when the engine is slow, silent, away or another than before; and its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from wire_server import ECHO, FakeEngine, TappedEndpoint, bulk, on_both_loops, running, turns

from cartstore.errors import OtherEventLoop, OutcomeUnknown, StoreUnavailable
from cartstore.layout import LAYOUT
from cartstore.redis.wire import Endpoint, WireCaller
from cartstore.redis.wire.caller import BACKOFF_SECONDS, BACKOFF_SECONDS_MAX, _backoff_seconds

KEYS = ("{test:0}:gate", "{test:0}:cart:1")
IDENTITY = f"{LAYOUT}/run-1:replication-1"


@pytest.fixture
def path(server_folder: Path, request: pytest.FixtureRequest) -> Path:
    return server_folder / f"{abs(hash(request.node.nodeid)):x}.sock"


async def ask(caller: WireCaller, payload: str | int) -> Any:
    return await caller.call(ECHO, KEYS, (payload,))


async def ask_until_answered(caller: WireCaller, payload: str | int) -> Any:
    while True:
        try:
            return await ask(caller, payload)
        except (StoreUnavailable, OutcomeUnknown):
            await asyncio.sleep(0.01)


# --- deadlines ---------------------------------------------------------------------------------


@on_both_loops
async def test_call_is_unknown_when_it_was_sent_and_not_answered_in_time(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, call_timeout_seconds=0.2) as caller:
        await ask(caller, 1)
        engine.held.clear()
        with pytest.raises(OutcomeUnknown):
            await ask(caller, 2)
        engine.held.set()

        # The late reply is thrown away: the next caller does not get it as its own.
        assert (await ask_until_answered(caller, 3))[2] == "3"
        assert (await ask(caller, 4))[2] == "4"
        assert engine.accepted == 1


@on_both_loops
async def test_nothing_more_is_sent_while_the_oldest_call_is_overdue(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, call_timeout_seconds=0.4) as caller:
        await ask(caller, 1)
        engine.held.clear()
        with pytest.raises(OutcomeUnknown):
            await ask(caller, 2)
        # To send it would make it unknown as well, and that of an engine that is known not to answer.
        third = asyncio.ensure_future(ask(caller, 3))
        await turns()
        engine.held.set()

        assert (await third)[2] == "3"
        assert [call[-1] for call in engine.calls] == [b"1", b"2", b"3"]


@on_both_loops
async def test_call_is_refused_unsent_while_the_oldest_one_is_overdue(path: Path) -> None:
    async with (
        running(path) as engine,
        WireCaller.open(engine.url, call_timeout_seconds=0.4, wait_seconds=0.1) as caller,
    ):
        await ask(caller, 1)
        engine.held.clear()
        with pytest.raises(OutcomeUnknown):
            await ask(caller, 2)
        with pytest.raises(StoreUnavailable):
            await ask(caller, 3)

        assert [call[-1] for call in engine.calls] == [b"1", b"2"]


@on_both_loops
async def test_connection_is_replaced_when_it_is_silent_for_long(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, call_timeout_seconds=0.1) as caller:
        await ask(caller, 1)
        engine.answers = [None]
        with pytest.raises(OutcomeUnknown):
            await ask(caller, 2)
        await engine.wait_until(lambda: engine.accepted == 2)

        assert (await ask_until_answered(caller, 3))[2] == "3"


@on_both_loops
async def test_connection_is_replaced_when_it_is_silent_and_nobody_calls(path: Path) -> None:
    async with (
        running(path) as engine,
        WireCaller.open(engine.url, call_timeout_seconds=0.1, identity_seconds=0.02) as caller,
    ):
        await ask(caller, 1)
        engine.is_silent = True
        await engine.wait_until(lambda: engine.accepted >= 2)
        engine.is_silent = False

        assert (await ask_until_answered(caller, 2))[2] == "2"


# --- a connection that is lost -------------------------------------------------------------------


@on_both_loops
async def test_sent_calls_are_unknown_and_waiting_ones_go_on_when_the_connection_is_lost(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, in_flight_max=2) as caller:
        engine.held.clear()
        calls = [asyncio.ensure_future(ask(caller, n)) for n in range(5)]
        await engine.wait_for_calls(1)
        await turns()
        engine.cut()
        engine.held.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown] * 2 + [list] * 3
        assert [outcome[2] for outcome in outcomes[2:]] == ["2", "3", "4"]


@on_both_loops
@pytest.mark.parametrize("part", [b"*", b"*3\r\n$2\r\nOK\r\n$5", b"*3\r\n$2\r\nOK\r\n$5\r\nab"])
async def test_call_is_unknown_when_its_reply_breaks_off(path: Path, part: bytes) -> None:
    async with running(path, answers=[part]) as engine, WireCaller.open(engine.url) as caller:
        call = asyncio.ensure_future(ask(caller, 1))
        await engine.wait_for_calls(1)
        await turns()
        engine.cut()
        with pytest.raises(OutcomeUnknown):
            await call

        # Nor is the half of a reply put in front of the first one on the new connection.
        assert await ask(caller, 2) == ["OK", IDENTITY, "2"]


@on_both_loops
async def test_replies_before_the_loss_are_kept(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url) as caller:
        await ask(caller, 1)
        engine.answers = [bulk(b"first"), None]
        first, second = (asyncio.ensure_future(ask(caller, n)) for n in (1, 2))
        assert await first == "first"
        await engine.wait_for_calls(3)
        engine.cut()

        with pytest.raises(OutcomeUnknown) as caught:
            await second
        assert isinstance(caught.value.__cause__, OSError)


@on_both_loops
async def test_waiting_call_carries_the_identity_of_the_engine_that_it_reaches(path: Path) -> None:
    """Goal: a call made before a restart never names the engine that is gone. Method: one call is in flight
    on the first engine and fills the connection, a second one waits; another engine comes behind the name."""
    async with running(path) as first, WireCaller.open(first.url, in_flight_max=1) as caller:
        first.held.clear()
        sent, waiting = (asyncio.ensure_future(ask(caller, n)) for n in (1, 2))
        await first.wait_for_calls(1)
        await first.stop()
        async with running(path, run_id="run-2") as second:
            with pytest.raises(OutcomeUnknown):
                await sent

            assert await waiting == ["OK", f"{LAYOUT}/run-2:replication-1", "2"]
            assert first.calls[0][-2:] == [IDENTITY.encode(), b"1"]
            assert [call[-1] for call in second.calls] == [b"2"]


@on_both_loops
async def test_missed_call_goes_on_when_the_connection_is_lost_before_it_is_sent_again(path: Path) -> None:
    async with running(path) as engine:
        endpoint = TappedEndpoint(engine.url)
        async with WireCaller(
            endpoint.locate, call_timeout_seconds=30, connect_timeout_seconds=30, wait_seconds=30
        ) as caller:
            engine.held.clear()
            engine.answers = [b"-NOSCRIPT No matching script.\r\n"]
            call = asyncio.ensure_future(ask(caller, 1))
            await engine.wait_for_calls(1)
            endpoint.protocol.pause_writing()
            engine.held.set()
            await turns()
            engine.cut()

            # The engine said that nothing ran, so the loss leaves nothing unknown.
            assert await call == ["OK", IDENTITY, "1"]
            assert engine.accepted == 2


# --- an engine that is away ------------------------------------------------------------------------


@on_both_loops
async def test_call_waits_for_the_engine_when_it_comes_in_time(path: Path) -> None:
    engine = FakeEngine(path)
    async with WireCaller.open(engine.url) as caller:
        call = asyncio.ensure_future(ask(caller, 1))
        await turns()
        await engine.start()

        assert await call == ["OK", IDENTITY, "1"]
        await engine.stop()


@on_both_loops
async def test_call_is_refused_when_the_engine_stays_away(path: Path) -> None:
    async with WireCaller.open(f"unix://{path}", wait_seconds=0.05) as caller:
        with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
            await ask(caller, 1)
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(StoreUnavailable):
            await caller.identity()

        async with running(path) as engine:
            assert (await ask_until_answered(caller, 2))[2] == "2"
            assert [call[-1] for call in engine.calls] == [b"2"]


@on_both_loops
async def test_call_is_refused_at_once_when_the_engine_has_been_away_for_long(path: Path) -> None:
    async with WireCaller.open(f"unix://{path}", wait_seconds=0.05) as caller:
        with pytest.raises(StoreUnavailable):
            await ask(caller, 1)
        await asyncio.sleep(0.05)

        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            ask(caller, 2).send(None)


@on_both_loops
async def test_connecting_is_tried_again_when_the_engine_closes_after_accepting(path: Path) -> None:
    async with running(path, closes_on_accept=True) as engine, WireCaller.open(engine.url) as caller:
        call = asyncio.ensure_future(ask_until_answered(caller, 1))
        await engine.wait_until(lambda: engine.accepted >= 3)
        engine.closes_on_accept = False

        assert await call == ["OK", IDENTITY, "1"]


@on_both_loops
async def test_connecting_is_tried_again_when_the_greeting_is_never_answered(path: Path) -> None:
    async with (
        running(path, is_silent=True) as engine,
        # No other time could run out here.
        WireCaller.open(f"{engine.url}?socket_connect_timeout=0.05&socket_timeout=1000") as caller,
    ):
        call = asyncio.ensure_future(ask_until_answered(caller, 1))
        await engine.wait_until(lambda: engine.accepted >= 2)
        engine.is_silent = False

        assert await call == ["OK", IDENTITY, "1"]
        # The attempts that failed leave nothing open.
        await asyncio.wait_for(engine.wait_until(lambda: engine.connections == 1), 30)


@on_both_loops
async def test_connecting_is_tried_again_when_the_greeting_is_cut_off(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url) as caller:

        def answer_and_cut(command: list[bytes]) -> bytes | None:
            if command[0] == b"CLIENT" and engine.accepted < 3:
                asyncio.get_running_loop().call_soon(engine.cut)
            return None

        engine.greeting_answer = answer_and_cut

        assert (await ask_until_answered(caller, 1))[2] == "1"
        assert engine.accepted >= 3


@on_both_loops
async def test_connecting_is_tried_again_when_the_connection_ends_with_the_greeting(path: Path) -> None:
    async with running(path) as engine:
        endpoint = TappedEndpoint(engine.url)

        def end_first(data: bytes) -> None:
            # The reply to the name is the last one; nobody has been woken by it yet.
            if data.endswith(b"+OK\r\n") and engine.accepted == 1:
                endpoint.protocol.abort(ConnectionResetError())

        endpoint.after_data = end_first
        async with WireCaller(
            endpoint.locate, call_timeout_seconds=30, connect_timeout_seconds=30, identity_seconds=1_000
        ) as caller:
            assert await ask(caller, 1) == ["OK", IDENTITY, "1"]
            assert engine.accepted == 2


@on_both_loops
@pytest.mark.parametrize(
    ("url_end", "refused", "answer", "says"),
    [
        ("?password=wrong", b"AUTH", b"-WRONGPASS invalid username-password pair\r\n", "WRONGPASS"),
        ("?db=99", b"SELECT", b"-ERR DB index is out of range\r\n", "ERR DB index is out of range"),
        ("", b"INFO", b"-NOAUTH Authentication required.\r\n", "NOAUTH"),
        ("", b"INFO", b"-ERR max number of clients reached\r\n", "max number of clients"),
    ],
)
async def test_calls_are_refused_with_the_reason_when_the_engine_refuses_us(
    path: Path, url_end: str, refused: bytes, answer: bytes, says: str
) -> None:
    async with (
        running(path) as engine,
        WireCaller.open(engine.url + url_end, call_timeout_seconds=1_000, wait_seconds=1_000) as caller,
    ):
        engine.greeting_answer = lambda command: answer if command[0] == refused else None
        # At once, for those that wait as for those that come later: waiting would not help.
        with pytest.raises(StoreUnavailable, match=says):
            await ask(caller, 1)
        with pytest.raises(StoreUnavailable, match=says):
            ask(caller, 2).send(None)

        engine.greeting_answer = lambda command: None
        assert (await ask_until_answered(caller, 3))[2] == "3"


@on_both_loops
async def test_connection_stands_when_only_its_name_is_refused(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url) as caller:
        engine.greeting_answer = lambda command: b"-NOPERM no\r\n" if command[0] == b"CLIENT" else None

        assert await ask(caller, 1) == ["OK", IDENTITY, "1"]


@on_both_loops
async def test_every_attempt_asks_where_the_engine_is(path: Path) -> None:
    asked = []
    places = [path.with_suffix(".old"), path.with_suffix(".older"), path]

    async def locate() -> Endpoint:
        asked.append(places[min(len(asked), 2)])
        if len(asked) == 2:
            raise LookupError("nobody knows a primary now")
        return Endpoint.from_url(f"unix://{asked[-1]}")

    async with (
        running(path),
        WireCaller(locate, call_timeout_seconds=30, connect_timeout_seconds=30) as caller,
    ):
        assert await ask(caller, 1) == ["OK", IDENTITY, "1"]
        assert asked == places


def test_backoff_doubles_up_to_its_bound() -> None:
    for failures in range(1, 9):
        pauses = [_backoff_seconds(failures) for _ in range(300)]
        bound = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * 2 ** (failures - 1))
        # Anything up to the bound, so that many processes do not come back in the same moment.
        assert 0 <= min(pauses) < bound / 2 < max(pauses) <= bound
    assert _backoff_seconds(10_000) <= BACKOFF_SECONDS_MAX


@on_both_loops
async def test_backoff_starts_anew_when_a_connection_has_stood_for_a_while(path: Path) -> None:
    async with running(path) as engine, WireCaller.open(engine.url, identity_seconds=0.01) as caller:
        await ask(caller, 1)
        engine.cut()
        await engine.wait_until(lambda: engine.accepted == 2)
        assert caller._failures == 1

        asked = len(engine.commands)
        # The greeting's own question, and two that come with time.
        await engine.wait_until(lambda: engine.commands[asked:].count([b"INFO", b"replication"]) >= 3)

        assert caller._failures == 0


# --- the end -----------------------------------------------------------------------------------


@on_both_loops
async def test_aclose_tells_sent_calls_from_waiting_ones(path: Path) -> None:
    async with running(path) as engine:
        caller = WireCaller.open(engine.url, in_flight_max=1)
        engine.held.clear()
        calls = [asyncio.ensure_future(ask(caller, n)) for n in (1, 2)]
        await engine.wait_for_calls(1)

        await caller.aclose()

        assert not caller._connections
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown, StoreUnavailable]
        with pytest.raises(StoreUnavailable, match="closed"):
            await ask(caller, 3)
        with pytest.raises(StoreUnavailable, match="closed"):
            await caller.identity()
        await caller.aclose()
        assert caller._timer is not None
        assert caller._timer.cancelled()


@on_both_loops
async def test_missed_call_is_told_so_when_the_caller_is_closed_meanwhile(path: Path) -> None:
    async with running(path) as engine:
        endpoint = TappedEndpoint(engine.url)
        caller = WireCaller(endpoint.locate, call_timeout_seconds=30, connect_timeout_seconds=30)
        engine.held.clear()
        call = asyncio.ensure_future(ask(caller, 1))
        await engine.wait_for_calls(1)

        # The answer comes in the turns between the refusal of what waits and the end of the connection, and
        # the call cannot be sent again in them.
        endpoint.protocol.pause_writing()
        closing = asyncio.ensure_future(caller.aclose())
        await asyncio.sleep(0)
        assert not closing.done()
        endpoint.protocol.data_received(b"-NOSCRIPT No matching script.\r\n")
        await closing

        with pytest.raises(StoreUnavailable, match="closed"):
            await asyncio.wait_for(call, 5)


@on_both_loops
@pytest.mark.parametrize("is_silent", [False, True])
async def test_aclose_ends_connecting(path: Path, is_silent: bool) -> None:
    async with running(path, is_silent=is_silent, closes_on_accept=not is_silent) as engine:
        caller = WireCaller.open(engine.url)
        call = asyncio.ensure_future(ask(caller, 1))
        await engine.wait_until(lambda: engine.accepted >= 1)

        await caller.aclose()

        with pytest.raises(StoreUnavailable, match="closed"):
            await call
        assert "cartstore connecting" not in [task.get_name() for task in asyncio.all_tasks()]


@on_both_loops
async def test_aclose_needs_no_call_before_it(path: Path) -> None:
    caller = WireCaller.open(f"unix://{path}")

    await caller.aclose()

    with pytest.raises(StoreUnavailable, match="closed"):
        await ask(caller, 1)


def test_call_raises_usage_error_when_made_from_another_loop(path: Path) -> None:
    caller = WireCaller.open(f"unix://{path}", wait_seconds=0.02)

    async def first() -> None:
        with pytest.raises(StoreUnavailable):
            await ask(caller, 1)

    async def elsewhere() -> None:
        with pytest.raises(OtherEventLoop, match="event loop"):
            await ask(caller, 2)
        with pytest.raises(OtherEventLoop, match="event loop"):
            await caller.identity()
        with pytest.raises(OtherEventLoop, match="event loop"):
            await caller.aclose()

    with asyncio.Runner() as runner, asyncio.Runner() as other:
        runner.run(first())
        other.run(elsewhere())
        runner.run(caller.aclose())
