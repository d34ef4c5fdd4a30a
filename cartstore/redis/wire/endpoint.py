"""Endpoint: where an engine is and how it is greeted. Owns the reading of URLs; refuses to know calls.

redis-py's own connection object reads the URL and is never connected: what CARTSTORE_REDIS_URL means, TLS
options and defaults included, is so by construction the same here and off the hot path.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from redis.asyncio.connection import Connection as RedisConnection
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import RedisError

from cartstore.errors import ConfigurationError
from cartstore.redis.clients import CALL_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS

CLIENT_NAME: Final = "cartstore"

_POOL_OPTIONS: Final = frozenset({"max_connections", "timeout"})
"""What a URL may say about a pool of connections; there is none here."""

AnyProtocol = TypeVar("AnyProtocol", bound=asyncio.Protocol)


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One node of an engine. Two timeouts ride along because redis-py lets the URL set them."""

    host: str = ""
    port: int = 0
    path: str = ""
    """Of a unix socket; empty for TCP."""

    tls: ssl.SSLContext | None = None
    username: str = ""
    password: str = ""
    database: int = 0
    client_name: str = CLIENT_NAME
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS
    call_timeout_seconds: float = CALL_TIMEOUT_SECONDS

    @classmethod
    def from_url(cls, url: str) -> Endpoint:
        """Raises ConfigurationError for a URL, an option or a certificate file that redis-py would refuse."""
        try:
            return cls._read(url)
        except (ValueError, TypeError, RedisError, OSError) as error:
            # The URL itself has a password in it and stays out of the message.
            raise ConfigurationError(f"The engine's URL cannot be used: {error}") from error

    @classmethod
    def _read(cls, url: str) -> Endpoint:
        options: dict[str, Any] = {
            "socket_timeout": CALL_TIMEOUT_SECONDS,
            "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "client_name": CLIENT_NAME,
        }
        options.update({name: value for name, value in parse_url(url).items() if name not in _POOL_OPTIONS})
        kind = options.pop("connection_class", RedisConnection)
        connection = kind(**options)
        is_unix = isinstance(connection, UnixDomainSocketConnection)
        return cls(
            host="" if is_unix else connection.host,
            port=0 if is_unix else connection.port,
            path=connection.path if is_unix else "",
            tls=connection.ssl_context.get() if isinstance(connection, SSLConnection) else None,
            username=connection.username or "",
            password=connection.password or "",
            database=int(connection.db),
            client_name=connection.client_name,
            connect_timeout_seconds=connection.socket_connect_timeout,
            call_timeout_seconds=connection.socket_timeout,
        )

    def __repr__(self) -> str:
        place = f"unix://{self.path}" if self.path else f"{self.host}:{self.port}"
        return f"Endpoint({place}/{self.database})"

    async def open(self, protocol: Callable[[], AnyProtocol]) -> AnyProtocol:
        """A connected, not yet greeted protocol. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self.path:
            _, opened = await loop.create_unix_connection(protocol, self.path)
            return opened
        # Both kinds of loops send small writes at once (TCP_NODELAY) without being told.
        _, opened = await loop.create_connection(protocol, self.host, self.port, ssl=self.tls)
        return opened

    def greeting(self) -> list[tuple[str, ...]]:
        """The commands that come before the first call."""
        commands: list[tuple[str, ...]] = []
        if self.username:
            commands.append(("AUTH", self.username, self.password))
        elif self.password:
            commands.append(("AUTH", self.password))
        if self.database:
            commands.append(("SELECT", str(self.database)))
        return commands


Locate = Callable[[], Awaitable[Endpoint]]
"""Asked before every attempt to connect, so that whoever knows a promoted replica can name it."""


def fixed(endpoint: Endpoint) -> Locate:
    """Always the same node."""

    async def locate() -> Endpoint:
        return endpoint

    return locate
