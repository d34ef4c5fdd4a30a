"""One pool of PostgreSQL connections, shared by the record and the catalog.

Owns the time-outs and the translation of every driver exception, so that none of them leaves `archive/` and
`catalog/`. Refuses to know any table, and how a connection is opened (connecting.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from cartstore.affinity import Affinity
from cartstore.archive.connecting import (
    NO_STATEMENT_CACHE,
    UNREACHABLE,
    Hang,
    connector,
    is_behind_pooler,
)
from cartstore.errors import (
    CartStoreError,
    ConfigurationError,
    ContractError,
    EventRefused,
    OutcomeUnknown,
    StoreUnavailable,
)

COMMAND_TIMEOUT_SECONDS: Final = 10.0
"""Of one statement in a transaction, and of a read that says it is long."""

READ_SECONDS_MAX: Final = 2.0
"""Of any other read, for which somebody waits."""

POOL_WAIT_SECONDS: Final = 2.0
POOL_CONNECTIONS_MAX: Final = 20
IDLE_SECONDS_MAX: Final = 0.1
"""A connection that lay idle for longer is asked for a sign of life before it is used again."""

LIFE_SECONDS_MAX: Final = 2.0
"""The time for that sign of life."""

BEGIN_SECONDS_MAX: Final = 5.0
"""Longer than a read has: nobody waits for a page, and a busy server is not to count as one that hangs."""

LATE_SECONDS: Final = 0.05
"""What an answer that is in the socket already gets, when this process itself came late to read it."""

SERVER_VERSION_MIN: Final = 140_000

_REFUSED_CLASSES = ("22", "23")
"""SQLSTATE classes that a value causes: data exceptions and violated constraints."""

_UNAVAILABLE_CLASSES = ("08", "25", "28", "3D", "40", "53", "55", "57", "58")
"""Connection, read-only server, log-in, missing database, serialization, resources, locks, shutdown, disk.
All of them pass without a change of ours, and none of them leaves a transaction applied."""


class Database:
    """The pool. `transaction()` and `reading()` are the only two ways to a connection.

    It belongs to the process and the event loop that took the first one; both raise UsageError elsewhere.
    """

    def __init__(self, engine: AsyncEngine, hang: Hang, *, is_pooled: bool = False) -> None:
        self._affinity = Affinity()
        self._engine = engine
        self._hang = hang
        # Shares the pool; statements outside a transaction save a round trip before and after each. Behind a
        # pooler preparing and executing would be two transactions, on two server connections at worst.
        self._reader = engine if is_pooled else engine.execution_options(isolation_level="AUTOCOMMIT")
        self._repeatable = engine.execution_options(isolation_level="REPEATABLE READ")

    @classmethod
    async def open(cls, database_url: str) -> Database:
        """A pool on a server that answers. Raises ConfigurationError and StoreUnavailable."""
        is_pooled = await is_behind_pooler(database_url)
        hang = Hang()
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connector(
                database_url,
                command_timeout_seconds=COMMAND_TIMEOUT_SECONDS,
                hang=hang,
                is_pooled=is_pooled,
            ),
            connect_args=NO_STATEMENT_CACHE if is_pooled else {},
            pool_size=POOL_CONNECTIONS_MAX,
            max_overflow=0,
            pool_timeout=POOL_WAIT_SECONDS,
            pool_use_lifo=True,
        )
        _check_idle_connections(engine, hang)
        return cls(engine, hang, is_pooled=is_pooled)

    async def close(self) -> None:
        # In a forked child the connections are the parent's.
        if not self._affinity.is_lost:
            await self._engine.dispose()

    @asynccontextmanager
    async def transaction(self, *, is_repeatable: bool = False) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed when the body ends, rolled back when it raises. `is_repeatable`: all its
        statements see the database as it was when it began.

        Raises StoreUnavailable (nothing is applied), OutcomeUnknown (the connection was lost while the
        commit was under way), EventRefused (a constraint or a value that PostgreSQL does not take).
        """
        with translated():
            async with self._begun(self._repeatable if is_repeatable else self._engine) as connection:
                try:
                    yield connection
                except TimeoutError:
                    # Nobody answers on it: a polite good-bye would take another time-out.
                    await _end(connection)
                    raise
                with _translated_commit():
                    await connection.commit()

    @asynccontextmanager
    async def _begun(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """A connection whose transaction the server has begun.

        A connection that was used a moment ago is not asked for a sign of life, yet the server may have been
        restarted in that moment. BEGIN is sent here, before the body does anything: where it fails nothing
        can be applied, so that connection is dropped and another one taken. All of the pool may be dead,
        hence as many rounds before a failure is believed.
        """
        for round_ in range(POOL_CONNECTIONS_MAX + 1):
            async with self._acquired(engine) as connection:
                try:
                    # The driver's adapter sends BEGIN with the first statement only, so that one is needed.
                    async with _cut_off_after(BEGIN_SECONDS_MAX, connection):
                        await connection.exec_driver_sql("SELECT 1")
                except TimeoutError:
                    self._hang.note()
                    raise
                except (DBAPIError, OSError) as error:
                    if round_ == POOL_CONNECTIONS_MAX:
                        raise
                    await connection.invalidate(error)
                    continue
                yield connection
                return

    @asynccontextmanager
    async def reading(self, *, is_long: bool = False) -> AsyncIterator[AsyncConnection]:
        """A connection for single statements that write nothing, within READ_SECONDS_MAX in all.

        `is_long`: nobody waits for them in a request, and they may read much. Raises StoreUnavailable.
        """
        seconds = COMMAND_TIMEOUT_SECONDS if is_long else READ_SECONDS_MAX
        with translated():
            async with (
                self._acquired(self._reader) as connection,
                _cut_off_after(seconds, connection),
            ):
                yield connection

    @asynccontextmanager
    async def _acquired(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        self._affinity.check()
        self._hang.raise_if_known()
        async with engine.connect() as connection:
            # It is new, or has just been asked, or was used a moment ago and no other call found a hang.
            self._hang.forget()
            yield connection

    async def check_server(self) -> None:
        """Raise ConfigurationError for a server that the record must not be kept on."""
        async with self.reading() as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT current_setting('server_version_num') AS version,"
                        " current_setting('synchronous_commit') AS durability"
                    )
                )
            ).one()
        if int(row.version) < SERVER_VERSION_MIN:
            raise ConfigurationError(
                f"PostgreSQL {int(row.version) // 10_000} is too old: 14 or later is needed."
            )
        if row.durability == "off":
            # The cursor tells the engine what it may forget; a commit that a crash of the database takes
            # back would lose orders that are trimmed already.
            raise ConfigurationError(
                "PostgreSQL runs with synchronous_commit=off, where a crash loses acknowledged checkouts."
                " Set it to on."
            )


async def _driver_of(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection


async def _end(connection: AsyncConnection) -> None:
    (await _driver_of(connection)).terminate()


@asynccontextmanager
async def _cut_off_after(seconds: float, connection: AsyncConnection) -> AsyncIterator[None]:
    """Close the connection when the body takes longer. Raises TimeoutError then.

    Closing it ends the statement at once. The driver's own time-out and a cancelled task first ask the
    server to stop the statement, and a server that hangs does not answer that either.
    """
    with _cut_off(seconds, await _driver_of(connection)):
        yield


@contextmanager
def _cut_off(seconds: float, driver: Any) -> Iterator[None]:
    is_over = False
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def cut() -> None:
        nonlocal is_over
        is_over = True
        driver.terminate()

    def look_again() -> None:
        # A loop that stood still runs this together with the reading of the answer, and before whoever
        # waits for it has had his turn.
        nonlocal timer
        timer = loop.call_later(LATE_SECONDS, cut)

    timer = loop.call_later(seconds, look_again)
    try:
        yield
    except Exception as error:
        if is_over:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


def _check_idle_connections(engine: AsyncEngine, hang: Hang) -> None:
    """Replace connections that died while nobody used them, so that a restarted database heals by itself.

    The pool's own pre-ping would cost three round trips on every use; a connection that was used a moment
    ago has just proved that it lives, unless another call has found the database to hang since.
    """
    pool_events = engine.sync_engine

    @event.listens_for(pool_events, "checkin")
    def note_time(_connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(pool_events, "checkout")
    def ask_for_life(connection: Any, record: Any, _proxy: Any) -> None:
        idle_since = record.info.get("idle_since")
        if idle_since is None:
            return
        if time.monotonic() - idle_since < IDLE_SECONDS_MAX and not hang.is_suspected:
            return
        try:
            connection.run_async(_ask_for_life)
        except TimeoutError as error:
            hang.note()
            raise StoreUnavailable(UNREACHABLE) from error
        except Exception as error:
            raise DisconnectionError() from error


async def _ask_for_life(driver: Any) -> None:
    with _cut_off(LIFE_SECONDS_MAX, driver):
        # The simple protocol: one round trip, and nothing stays prepared. Not an empty query, whose answer
        # the driver cannot read: each connection that lay idle would be taken for dead.
        await driver.execute("SELECT 1")


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the driver raises into the taxonomy; errors of our own pass unchanged."""
    try:
        yield
    except CartStoreError:
        raise
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise translate(error) from error


@contextmanager
def _translated_commit() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        # An answer with a SQLSTATE is a refusal, and the transaction is rolled back; a server that shuts
        # down (57) or a broken connection (08, none) may have committed before the answer got lost.
        state = _sqlstate(error)
        if state is not None and state[:2] not in ("08", "57"):
            raise translate(error) from error
        raise OutcomeUnknown("The connection to the database was lost while it committed.") from error


def translate(error: BaseException) -> CartStoreError:
    """The error of the taxonomy for one of the driver's. Never OutcomeUnknown: that is the commit's."""
    state = _sqlstate(error)
    if state is None:
        is_ours = isinstance(error, SQLAlchemyError) and not isinstance(
            error, DBAPIError | PoolTimeoutError | PendingRollbackError
        )
        return ContractError(str(error)) if is_ours else StoreUnavailable(UNREACHABLE)
    reason = str(getattr(error, "orig", error)).partition("\n")[0]
    if state[:2] in _REFUSED_CLASSES:
        return EventRefused(reason)
    if state[:2] in _UNAVAILABLE_CLASSES:
        return StoreUnavailable(UNREACHABLE, for_operators=f"The database gives no service: {reason}.")
    if state in ("42P01", "42703"):
        return ConfigurationError("The database has not the tables of this version; run `cartstore migrate`.")
    if state == "42501":
        return ConfigurationError(f"The user of CARTSTORE_DATABASE_URL lacks a right: {reason}.")
    return ContractError(f"PostgreSQL refused a statement ({state}): {reason}")


def _sqlstate(error: BaseException) -> str | None:
    if isinstance(error, DBAPIError):
        error = error.orig or error
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None
