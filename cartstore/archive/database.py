"""One pool of PostgreSQL connections, shared by the record and the catalog.

Owns the URL's form, the time-outs and the translation of every driver exception, so that none of them
leaves `archive/` and `catalog/`. Refuses to know any table.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from cartstore.errors import (
    CartStoreError,
    ConfigurationError,
    ContractError,
    EventRefused,
    OutcomeUnknown,
    StoreUnavailable,
)

CONNECT_TIMEOUT_SECONDS: Final = 3.0
COMMAND_TIMEOUT_SECONDS: Final = 10.0
POOL_WAIT_SECONDS: Final = 5.0
POOL_CONNECTIONS_MAX: Final = 20
IDLE_SECONDS_MAX: Final = 0.1
"""A connection that lay idle for longer is asked for a sign of life before it is used again."""

SERVER_VERSION_MIN: Final = 140_000

UNREACHABLE = "The database cannot be reached."

_REFUSED_CLASSES = ("22", "23")
"""SQLSTATE classes that a value causes: data exceptions and violated constraints."""

_UNAVAILABLE_CLASSES = ("08", "25", "28", "3D", "40", "53", "55", "57", "58")
"""Connection, read-only server, log-in, missing database, serialization, resources, locks, shutdown, disk.
All of them pass without a change of ours, and none of them leaves a transaction applied."""

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")


def libpq_url(database_url: str) -> str:
    """The URL in the form that asyncpg parses itself: sockets, sslmode and several hosts work as in libpq.

    Raises ConfigurationError for any other kind of URL.
    """
    scheme, separator, rest = database_url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ConfigurationError("CARTSTORE_DATABASE_URL must be a postgresql:// URL.")
    return f"postgresql://{rest}"


def connector(database_url: str, *, command_timeout_seconds: float) -> Callable[[], Awaitable[Any]]:
    """What opens one driver connection. Raises ConfigurationError for a URL that cannot be parsed."""
    url = libpq_url(database_url)

    async def connect() -> Any:
        try:
            return await asyncpg.connect(
                url,
                timeout=CONNECT_TIMEOUT_SECONDS,
                command_timeout=command_timeout_seconds,
                server_settings={"application_name": "cartstore"},
            )
        except (ValueError, asyncpg.exceptions.InterfaceError) as error:
            # Before any packet: a port that is no number, an unknown sslmode, a missing host.
            raise ConfigurationError(f"CARTSTORE_DATABASE_URL cannot be used: {error}") from error

    return connect


class Database:
    """The pool. `transaction()` and `reading()` are the only two ways to a connection."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # Shares the pool; statements outside a transaction save a round trip before and after each.
        self._reader = engine.execution_options(isolation_level="AUTOCOMMIT")

    @classmethod
    def of_url(cls, database_url: str) -> Database:
        """A pool that has not connected yet. Raises ConfigurationError for a URL of another kind."""
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connector(database_url, command_timeout_seconds=COMMAND_TIMEOUT_SECONDS),
            pool_size=POOL_CONNECTIONS_MAX,
            max_overflow=0,
            pool_timeout=POOL_WAIT_SECONDS,
            pool_use_lifo=True,
        )
        _check_idle_connections(engine)
        return cls(engine)

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed when the body ends, rolled back when it raises.

        Raises StoreUnavailable (nothing is applied), OutcomeUnknown (the connection was lost while the
        commit was under way), EventRefused (a constraint or a value that PostgreSQL does not take).
        """
        with translated():
            async with self._begun() as connection:
                yield connection
                with _translated_commit():
                    await connection.commit()

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[AsyncConnection]:
        """A connection whose transaction the server has begun.

        A connection that was used a moment ago is not asked for a sign of life, yet the server may have been
        restarted in that moment. BEGIN is sent here, before the body does anything: where it fails nothing
        can be applied, so that connection is dropped and another one taken. All of the pool may be dead,
        hence as many rounds before a failure is believed.
        """
        for _ in range(POOL_CONNECTIONS_MAX):
            async with self._engine.connect() as connection:
                try:
                    await _begin(connection)
                except TimeoutError:
                    raise
                except (DBAPIError, OSError) as error:
                    await connection.invalidate(error)
                    continue
                yield connection
                return
        async with self._engine.connect() as connection:
            await _begin(connection)
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for single statements that write nothing. Raises StoreUnavailable."""
        with translated():
            async with self._reader.connect() as connection:
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


async def _begin(connection: AsyncConnection) -> None:
    # The driver's adapter sends BEGIN with the first statement only, so that one is needed.
    await connection.exec_driver_sql("SELECT 1")


def _check_idle_connections(engine: AsyncEngine) -> None:
    """Replace connections that died while nobody used them, so that a restarted database heals by itself.

    The pool's own pre-ping would cost three round trips on every use; a connection that was used a moment
    ago has just proved that it lives.
    """
    pool_events = engine.sync_engine

    @event.listens_for(pool_events, "checkin")
    def note_time(_connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(pool_events, "checkout")
    def ask_for_life(connection: Any, record: Any, _proxy: Any) -> None:
        idle_since = record.info.get("idle_since")
        if idle_since is None or time.monotonic() - idle_since < IDLE_SECONDS_MAX:
            return
        try:
            engine.sync_engine.dialect.do_ping(connection)
        except Exception as error:
            raise DisconnectionError() from error


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
        return StoreUnavailable(UNREACHABLE)
    if state in ("42P01", "42703"):
        return ConfigurationError("The database has not the tables of this version; run `cartstore migrate`.")
    return ContractError(f"PostgreSQL refused a statement ({state}): {reason}")


def _sqlstate(error: BaseException) -> str | None:
    if isinstance(error, DBAPIError):
        error = error.orig or error
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None
