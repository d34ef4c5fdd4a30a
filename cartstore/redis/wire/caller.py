"""WireCaller: many callers, one connection. Owns waiting calls, their deadlines, and connecting again; what
travels on a connection is in connection.py.

A call passes two stations. While it *waits* nothing of it was sent, so whatever goes wrong is
StoreUnavailable. From the moment its bytes are handed to a connection it is *in flight*, and only a reply
says what became of it: without one it is OutcomeUnknown. It never goes back, except when the engine answered
that it does not know the script, which means that nothing ran.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, cast

from redis.exceptions import ResponseError

from cartstore.affinity import LOST, in_child, other_than
from cartstore.errors import PartlyApplied, StoreUnavailable
from cartstore.redis.caller import Reply, translate
from cartstore.redis.rights import MissingRights
from cartstore.redis.scripts import Script
from cartstore.redis.wire.calls import Call
from cartstore.redis.wire.connection import Connection
from cartstore.redis.wire.endpoint import Endpoint, Locate, fixed

IN_FLIGHT_MAX: Final = 4_096
"""Calls on the connection at once."""

WAITING_MAX: Final = 16_384
"""Calls that wait to be sent; one more is refused at once."""

WAIT_SECONDS: Final = 2.0
"""How long a call may wait to be sent. Shorter than its deadline, so that one which is sent late still has
time to be answered: of a refusal the buyer knows that nothing happened."""

IDENTITY_SECONDS: Final = 1.0
"""How often a connection asks its engine who it is."""

BACKOFF_SECONDS: Final = 0.05
BACKOFF_SECONDS_MAX: Final = 1.0

_TICKS: Final = 20
"""Ticks of the clock in the shorter of the two times that a call may take: how exact they are."""

_TICK_SECONDS_MAX: Final = 0.1

OnPartlyApplied = Callable[[Sequence[str]], None]

_log = logging.getLogger("cartstore.redis")
_running_loop = asyncio.get_running_loop


def _ignore(_keys: Sequence[str]) -> None:
    """Nobody looks at what a script that was cut off has changed."""


class WireCaller:
    """Calls scripts over one multiplexed connection; fulfils `cartstore.redis.caller.ScriptCaller`.

    Belongs to the process and the event loop of its first call. Opening connects nothing: an engine that is
    away makes calls fail, not the start. `call_timeout_seconds`: until a reply; by default what the endpoint
    says.
    """

    def __init__(
        self,
        locate: Locate,
        *,
        call_timeout_seconds: float,
        connect_timeout_seconds: float,
        wait_seconds: float = WAIT_SECONDS,
        identity_seconds: float = IDENTITY_SECONDS,
        in_flight_max: int = IN_FLIGHT_MAX,
        waiting_max: int = WAITING_MAX,
        rights: tuple[str, ...] = (),
        on_partly_applied: OnPartlyApplied = _ignore,
    ) -> None:
        wait_seconds = min(wait_seconds, call_timeout_seconds)
        self._locate = locate
        self._connect_seconds = connect_timeout_seconds
        self._tick_seconds = min(wait_seconds / _TICKS, _TICK_SECONDS_MAX)
        self._wait_ticks = round(wait_seconds / self._tick_seconds)
        self._call_ticks = round(call_timeout_seconds / self._tick_seconds)
        self._identity_ticks = max(1, round(identity_seconds / self._tick_seconds))
        self._in_flight_max = in_flight_max
        self._waiting_max = waiting_max
        self._rights = rights
        self._on_partly_applied = on_partly_applied

        self._loop: asyncio.AbstractEventLoop = cast(asyncio.AbstractEventLoop, None)
        # Not the first caller's: whatever it carries would live as long as the connection.
        self._context = contextvars.Context()
        self._waiting: deque[Call] = deque()
        self._room = waiting_max
        """Waiting calls that are accepted; 0 while every call is refused at once."""

        self._is_flush_due = False
        self._is_closed = False
        self._tick = 0
        self._timer: asyncio.TimerHandle | None = None
        self._connection: Connection | None = None
        self._connections: set[Connection] = set()
        """Every one whose transport is not closed yet, retired ones included."""

        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._connected_tick = 0
        self._away_tick = 0
        self._away_error: Exception | None = None
        in_child(self._lose)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        call_timeout_seconds: float | None = None,
        wait_seconds: float = WAIT_SECONDS,
        identity_seconds: float = IDENTITY_SECONDS,
        in_flight_max: int = IN_FLIGHT_MAX,
        waiting_max: int = WAITING_MAX,
        rights: tuple[str, ...] = (),
        on_partly_applied: OnPartlyApplied = _ignore,
    ) -> WireCaller:
        """A caller for the engine at a URL as redis-py takes it. Raises ConfigurationError.

        `rights`: the command that asks each new connection for missing rights (redis/rights.py).
        `on_partly_applied`: is told the keys of every call whose script the engine cut off.
        """
        endpoint = Endpoint.from_url(url)
        return cls(
            fixed(endpoint),
            call_timeout_seconds=call_timeout_seconds or endpoint.call_timeout_seconds,
            connect_timeout_seconds=endpoint.connect_timeout_seconds,
            wait_seconds=wait_seconds,
            identity_seconds=identity_seconds,
            in_flight_max=in_flight_max,
            waiting_max=waiting_max,
            rights=rights,
            on_partly_applied=on_partly_applied,
        )

    async def __aenter__(self) -> WireCaller:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- calls ---------------------------------------------------------------------------------

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Reply:
        """Run a script. Neither sequence may change until it is answered.

        Raises StoreUnavailable (not applied), OutcomeUnknown (sent, no answer), ContractError.
        """
        # Nothing here may await before the call is queued, and nothing is made that one future does not do:
        # this runs for every request.
        if _running_loop() is not self._loop:
            self._belong()
        waiting = self._waiting
        if len(waiting) >= self._room:
            raise self._refusal()
        future: asyncio.Future[Reply] = self._loop.create_future()
        waiting.append(Call(future, script, keys, args, self._tick))
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush, context=self._context)
        return await future

    async def identity(self) -> str:
        """Which engine a new call would reach, asked of it now. Raises StoreUnavailable."""
        if _running_loop() is not self._loop:
            self._belong()
        if len(self._waiting) >= self._room:
            raise self._refusal()
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting.append(Call(future, None, (), (), self._tick))
        self.on_room()
        try:
            return str(await future)
        except ResponseError as error:
            raise translate(error, sent=False) from error

    async def aclose(self) -> None:
        """Let nothing go on: waiting calls were not applied, those in flight are unknown. May be repeated."""
        if self._is_closed:
            return
        if self._loop is not None and _running_loop() is not self._loop:
            raise other_than(self._loop)
        self._is_closed = True
        self._room = 0
        if self._timer is not None:
            self._timer.cancel()
        self._refuse_waiting()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        connections = list(self._connections)
        for connection in connections:
            connection.abort(None)
        for connection in connections:
            await connection.closed

    def _belong(self) -> None:
        """The first call decides which loop this object, its futures and its connection belong to."""
        loop = _running_loop()
        if self._loop is not None:
            raise other_than(self._loop)
        self._loop = loop
        if not self._is_closed:
            self._connect()
            self._on_tick()

    def _lose(self) -> None:
        """In a forked child: the connections are the parent's, and what this object planned is done there.
        The child may go on with the loop, which then finds nothing to do."""
        if self._loop is not None:
            self._loop = LOST
            self._is_closed = True
            self._room = 0
            self._connection = None
            self._connections.clear()
            self._waiting.clear()

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._connection is not None:
            self._connection.send(self._waiting)

    def _refusal(self) -> StoreUnavailable:
        if self._is_closed:
            return StoreUnavailable("The store is closed; the change was not applied.")
        if self._connection is not None:
            return StoreUnavailable("Too many calls wait for the engine; the change was not applied.")
        if isinstance(self._away_error, MissingRights):
            refusal = StoreUnavailable(f"{self._away_error.message} The change was not applied.")
        elif isinstance(self._away_error, ResponseError):
            text = str(self._away_error)
            # The rest of a refusal of credentials may name a user, and messages travel far.
            reason = text if text.startswith("ERR ") else text.split(" ")[0]
            refusal = StoreUnavailable(f"The engine refuses the connection ({reason}).")
        else:
            refusal = StoreUnavailable("The engine cannot be reached; the change was not applied.")
        refusal.__cause__ = self._away_error
        return refusal

    def _refuse_waiting(self) -> None:
        while self._waiting:
            call = self._waiting.popleft()
            if not call.future.done():
                call.future.set_exception(self._refusal())

    # --- time ----------------------------------------------------------------------------------

    def _on_tick(self) -> None:
        """Deadlines are counted in turns of this timer and not read off a clock: when the whole process stood
        still, replies that came meanwhile are read before anybody is told that there was none."""
        if self._is_closed:
            # Of a forked child, whose copy of the timer nobody has cancelled.
            return
        self._tick += 1
        self._timer = self._loop.call_later(self._tick_seconds, self._on_tick, context=self._context)
        self._expire_waiting()
        for connection in list(self._connections):
            connection.expire(self._tick)
        if self._connection is None:
            if self._tick - self._away_tick >= self._wait_ticks:
                # Whoever came when it went away was refused by now; who comes later need not wait.
                self._room = 0
        elif (self._tick - self._connected_tick) % self._identity_ticks == 0:
            # It has stood for a while: the next loss is a new one, and not one more of a row.
            self._failures = 0
            self._connection.ask_identity()

    def _expire_waiting(self) -> None:
        waiting = self._waiting
        too_old = self._tick - self._wait_ticks
        for _ in range(len(waiting)):
            call = waiting.popleft()
            if call.future.done():
                # Cancelled: it would take the place of a call that somebody waits for.
                continue
            if call.tick <= too_old:
                call.future.set_exception(self._refusal())
            else:
                waiting.append(call)

    # --- connecting ----------------------------------------------------------------------------

    def _connect(self) -> None:
        self._away_tick = self._tick
        self._connecting = self._loop.create_task(
            self._keep_trying(), name="cartstore connecting", context=self._context
        )

    async def _keep_trying(self) -> None:
        while True:
            if self._failures:
                await asyncio.sleep(_backoff_seconds(self._failures))
            if self._loop is LOST:
                return
            try:
                await self._try()
                return
            except Exception as error:
                # Whatever ended this attempt, only another one can end the outage.
                self._on_failure(error)

    async def _try(self) -> None:
        """One attempt. Raises OSError (TimeoutError and TLS among them), StoreUnavailable, ResponseError, and
        whatever `locate` raises."""
        connection = Connection(
            self, in_flight_max=self._in_flight_max, tick=self._tick, call_ticks=self._call_ticks
        )
        try:
            async with asyncio.timeout(self._connect_seconds):
                endpoint = await self._locate()
                await endpoint.open(lambda: connection)
                if self._loop is LOST:
                    # Forked meanwhile, and this is the child.
                    connection.cut_off()
                    raise StoreUnavailable
                self._connections.add(connection)
                connection.closed.add_done_callback(lambda _: self._connections.discard(connection))
                await connection.greet(endpoint.greeting(), endpoint.client_name, self._rights)
        except BaseException as error:
            connection.abort(error if isinstance(error, Exception) else None)
            raise
        self._connection = connection
        self._connected_tick = self._tick
        self._room = self._waiting_max
        if self._away_error is not None:
            _log.info("connected to the engine again")
            self._away_error = None
        connection.send(self._waiting)

    def _on_failure(self, error: Exception) -> None:
        self._failures += 1
        if self._away_error is None:
            _log.warning("the engine cannot be reached: %s", str(error) or type(error).__name__)
        self._away_error = error
        if isinstance(error, ResponseError | MissingRights):
            # It is there and does not want us: waiting a little longer would not help.
            self._room = 0
            self._refuse_waiting()

    # --- what the connection says ---------------------------------------------------------------

    def on_room(self) -> None:
        if self._waiting and not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush, context=self._context)

    def on_missed(self, call: Call) -> None:
        if not call.future.done():
            self._waiting.append(call)
        if self._is_closed:
            # It was in flight when all that waited were refused, and nothing is sent any more.
            self._refuse_waiting()

    def on_partly_applied(self, call: Call, error: PartlyApplied) -> None:
        _log.error("%s was cut off: %s", call.script, error.__cause__)
        self._on_partly_applied(call.keys)

    def on_elsewhere(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None
            self._failures += 1
            self._connect()
            connection.retire()

    def on_lost(self, connection: Connection, error: Exception | None) -> None:
        if connection is self._connection and not self._is_closed:
            self._connection = None
            self._on_failure(error or ConnectionResetError("The connection was closed."))
            self._connect()


def _backoff_seconds(failures: int) -> float:
    """Anything up to a bound that doubles: many processes that lost one engine do not come back as one."""
    bound = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * 2 ** min(failures - 1, 16))
    return random.uniform(0, bound)  # noqa: S311 (no secret)
