"""redis-py clients that remember their process and event loop (`cartstore.affinity`). Owns the pool and the
kinds of connections that all redis-py clients of the library use."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis import ConnectionPool as SyncConnectionPool
from redis import Redis as SyncRedis
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.connection import Connection as SyncConnection
from redis.maint_notifications import MaintNotificationsConfig

from cartstore.affinity import Affinity, ProcessAffinity, watch

CONNECT_TIMEOUT_SECONDS: Final = 2.0
CALL_TIMEOUT_SECONDS: Final = 5.0

NO_MAINTENANCE_NOTICES: Final = MaintNotificationsConfig(enabled=False)
"""For every client of redis-py. Its default asks hosted servers for such notices, and then no longer looks,
before it sends on an idle TCP connection, whether the engine has closed it (`timeout` in its settings): every
first command after a pause fails."""


class _WatchedConnection(AbstractConnection):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        watch(self, _transport_of)


def _transport_of(connection: AbstractConnection) -> asyncio.BaseTransport | None:
    return connection._writer.transport if connection._writer is not None else None


class TcpConnection(_WatchedConnection, Connection):
    """By TCP."""


class TlsConnection(_WatchedConnection, SSLConnection):
    """By TCP with TLS."""


class UnixConnection(_WatchedConnection, UnixDomainSocketConnection):
    """By a unix socket."""


class BoundPool(ConnectionPool):
    """Gives connections to the process and the event loop that took the first one, and to no other.

    Raises UsageError there, which passes through redis-py unchanged.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._affinity = Affinity()

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        self._affinity.check()
        return await super().get_connection()  # type: ignore[no-any-return, no-untyped-call]

    async def disconnect(self, inuse_connections: bool = True) -> None:
        # In a forked child the connections are the parent's.
        if not self._affinity.is_lost:
            await super().disconnect(inuse_connections)


class BoundBlockingPool(BoundPool, BlockingConnectionPool):
    """The same, of a pool whose takers wait for their turn."""


class BoundThreadPool(SyncConnectionPool):
    """Gives connections to the threads of the process that made it, and to no child of it.

    Raises UsageError there. redis-py would open new ones in a child, for a client whose threads are not
    there. What it has open it closes in a child without a word to the server.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._process = ProcessAffinity()

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> SyncConnection:
        self._process.check()
        return super().get_connection()


def connection_class(url: str) -> type[AbstractConnection]:
    """What connects to this URL."""
    if url.startswith("unix://"):
        return UnixConnection
    return TlsConnection if url.startswith("rediss://") else TcpConnection


def open_thread_client(url: str, **options: Any) -> SyncRedis:
    """A client for threads, such as RQ's; `options` as redis-py takes them. Raises ValueError for a URL that
    is none; connecting is lazy."""
    pool = BoundThreadPool.from_url(url, maint_notifications_config=NO_MAINTENANCE_NOTICES, **options)
    return SyncRedis.from_pool(pool)


def open_client(url: str, **options: Any) -> Redis:
    """A client that decodes what it is answered; `options` as redis-py takes them. Raises nothing: connecting
    is lazy."""
    given: dict[str, Any] = {
        "decode_responses": True,
        # An outbox entry may hold bytes that are no text; it must not keep the others from being read.
        "encoding_errors": "backslashreplace",
        "socket_timeout": CALL_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "maint_notifications_config": NO_MAINTENANCE_NOTICES,
        **options,
    }
    pool: BoundPool = BoundPool.from_url(url, **given)
    # from_url chooses the class by the scheme and takes no other.
    pool.connection_class = connection_class(url)
    return Redis.from_pool(pool)
