"""How a connection to PostgreSQL is opened: the form of the URL, time-outs, what a failure is called, and
what differs behind a pooler.

A failure names server and cause for those who run the store; what callers are told is only that it failed.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from cartstore.affinity import watch
from cartstore.causes import cause_of
from cartstore.errors import ConfigurationError, StoreUnavailable
from cartstore.urls import DATABASE_SCHEMES, database_place

CONNECT_TIMEOUT_SECONDS: Final = 2.0

HANG_SECONDS: Final = 1.0
"""After a database gave no sign of life, it is taken to hang for so long: calls fail at once meanwhile."""

UNREACHABLE: Final = "The database cannot be reached."

NO_STATEMENT_CACHE: Final = {"prepared_statement_cache_size": 0}
"""For `connect_args`: a statement that SQLAlchemy keeps would be without a name, and the next one of that
server connection takes its place. The driver's own cache is the connector's business."""


def libpq_url(database_url: str) -> str:
    """The URL in the form that asyncpg parses itself: sockets, sslmode and several hosts work as in libpq.

    Raises ConfigurationError for any other kind of URL.
    """
    scheme, separator, rest = database_url.partition("://")
    if not separator or scheme not in DATABASE_SCHEMES:
        raise ConfigurationError("CARTSTORE_DATABASE_URL must be a postgresql:// URL.")
    return f"postgresql://{rest}"


class Hang:
    """Remembers that the database hangs: connections are taken, and nobody answers.

    A database that is away refuses at once. One that hangs costs each caller a whole time-out, and callers
    that wait pile up; so the first one that ran out of patience spares it to all others for HANG_SECONDS.
    Then one of them tries again, and the others go on failing at once until it knows.
    """

    def __init__(self) -> None:
        self._until: float | None = None

    @property
    def is_suspected(self) -> bool:
        return self._until is not None

    def raise_if_known(self) -> None:
        """Raise StoreUnavailable, or let this caller try."""
        if self._until is None:
            return
        if time.monotonic() < self._until:
            raise StoreUnavailable(UNREACHABLE)
        self.note()

    def note(self) -> None:
        self._until = time.monotonic() + HANG_SECONDS

    def forget(self) -> None:
        """The database has answered."""
        self._until = None


def connector(
    database_url: str,
    *,
    command_timeout_seconds: float,
    hang: Hang | None = None,
    is_pooled: bool = False,
) -> Callable[[], Awaitable[Any]]:
    """What opens one driver connection. Raises ConfigurationError for a URL that cannot be parsed.

    `is_pooled`: nothing is prepared under a name, because the next statement may run on another server
    connection, which does not know it, or knows another one of that name. What it opens raises
    StoreUnavailable, which names server and cause, and ConfigurationError.
    """
    url = libpq_url(database_url)
    options: dict[str, Any] = {"statement_cache_size": 0} if is_pooled else {}

    async def connect() -> Any:
        try:
            connection = await asyncpg.connect(
                url,
                timeout=CONNECT_TIMEOUT_SECONDS,
                command_timeout=command_timeout_seconds,
                server_settings={"application_name": "cartstore"},
                **options,
            )
        except (ValueError, asyncpg.exceptions.InterfaceError) as error:
            # Before any packet: an unknown sslmode, a missing host. A certificate that is not trusted is a
            # ValueError too.
            if isinstance(error, ssl.SSLError):
                raise _unreachable(database_url, error) from error
            raise ConfigurationError(f"CARTSTORE_DATABASE_URL cannot be used: {error}") from error
        except TimeoutError as error:
            if hang is not None:
                hang.note()
            raise _unreachable(database_url, error) from error
        except (asyncpg.PostgresError, OSError) as error:
            raise _unreachable(database_url, error) from error
        watch(connection, lambda opened: opened._transport)
        return connection

    return connect


async def is_behind_pooler(database_url: str) -> bool:
    """Whether a pooler (PgBouncer, for instance) answers there. Raises what a connector's function raises.

    A pooler greets each client with a process number that it made up, because no server process belongs to
    the client. In transaction mode each transaction may run on another server connection. In session mode
    it would not matter; which mode it is cannot be asked.
    """
    connect = connector(database_url, command_timeout_seconds=CONNECT_TIMEOUT_SECONDS, is_pooled=True)
    connection = await connect()
    try:
        # The simple protocol, which prepares nothing, gives no rows but their number.
        answer = await connection.execute(
            f"SELECT 1 WHERE pg_backend_pid() = {int(connection.get_server_pid())}"
        )
    except (asyncpg.PostgresError, OSError, TimeoutError) as error:
        raise _unreachable(database_url, error) from error
    finally:
        connection.terminate()
    return str(answer) != "SELECT 1"


def _unreachable(database_url: str, error: BaseException) -> StoreUnavailable:
    place = database_place(database_url)
    return StoreUnavailable(
        UNREACHABLE, for_operators=f"The database at {place} cannot be reached: {_cause(error)}."
    )


def _cause(error: BaseException) -> str:
    if isinstance(error, asyncpg.PostgresError):
        # Of the server: a wrong password, a database that is not there, too many connections.
        return str(error).partition("\n")[0].rstrip(".")
    if "rejected SSL upgrade" in str(error):
        return "the server has no TLS, and ?sslmode= demands it"
    return cause_of(error, authority_option="?sslrootcert=", seconds=CONNECT_TIMEOUT_SECONDS)
