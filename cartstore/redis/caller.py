"""Calls scripts on one engine through redis-py. Owns connections, the engine's identity, and the line
between "not applied" and "unknown"; no redis-py exception leaves this folder.

The identity (`run_id:master_replid`) belongs to a connection, not to a client: it is learned in the
connection's handshake and put into the call when the bytes are written to that connection. A call that
was packed for an engine that is gone can so never pass the gate of the one that came after it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cartstore.errors import (
    NOT_APPLIED,
    ContractError,
    OutcomeUnknown,
    PartlyApplied,
    StoreFull,
    StoreUnavailable,
    WritesRefused,
)
from cartstore.redis.clients import (
    CALL_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    NO_MAINTENANCE_NOTICES,
    BoundBlockingPool,
    TcpConnection,
    TlsConnection,
    UnixConnection,
)
from cartstore.redis.identity import SHIFTED, identity_in, identity_question
from cartstore.redis.scripts import Script

POOL_SIZE = 64
POOL_WAIT_SECONDS = 2.0

MISSED = ("NOSCRIPT", "ERR Function not found")
"""How an engine begins to say that it does not know a script, or a function."""

_TAKES_NO_WRITES = frozenset(
    ("READONLY", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "BUSY", "CLUSTERDOWN")
)
_REFUSES_CREDENTIALS = frozenset(("NOAUTH", "WRONGPASS", "NOPERM"))

Reply = Any


class ScriptCaller(Protocol):
    """What carries a script call to the engine; puts the connection's identity into ARGV[1]."""

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Reply:
        """Run a script. Raises StoreUnavailable (not applied), OutcomeUnknown, ContractError."""
        ...

    async def identity(self) -> str:
        """The identity of the engine that a new call would reach. Raises StoreUnavailable."""
        ...


class _IdentityMixin(AbstractConnection):
    """Learns the engine's identity as the last step of the handshake."""

    identity: str = ""

    async def on_connect(self) -> None:
        await super().on_connect()
        nonce, commands = identity_question()
        await self.send_packed_command(self.pack_commands(commands))
        identity = identity_in(nonce, [await self.read_response() for _ in commands])
        if identity is None:
            raise RedisConnectionError(SHIFTED)
        self.identity = identity


class _TcpConnection(_IdentityMixin, TcpConnection):
    pass


class _TlsConnection(_IdentityMixin, TlsConnection):
    pass


class _UnixConnection(_IdentityMixin, UnixConnection):
    pass


def _connection_class(url: str) -> type[AbstractConnection]:
    if url.startswith("unix://"):
        return _UnixConnection
    return _TlsConnection if url.startswith("rediss://") else _TcpConnection


def open_pool(url: str) -> BlockingConnectionPool:
    """A bounded pool of connections that know their engine. Raises nothing: connecting is lazy."""
    pool: BoundBlockingPool = BoundBlockingPool.from_url(
        url,
        max_connections=POOL_SIZE,
        timeout=POOL_WAIT_SECONDS,
        socket_timeout=CALL_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        decode_responses=True,
        maint_notifications_config=NO_MAINTENANCE_NOTICES,
        # What scripts pack is no text.
        encoding_errors="surrogateescape",
    )
    # from_url chooses the class by the scheme and takes no other.
    pool.connection_class = _connection_class(url)
    return pool


_OUT_OF_MEMORY = "OOM command not allowed"
"""What an engine at its memory limit says. "OOM" alone may be in the name of a key that an error names."""

_NO_SUCH_DATABASE = "DB index is out of range"

_INSIDE_A_SCRIPT = re.compile(r"@user_(?:script|function):\d+\.?$")
"""How an engine ends an error that a script did not catch."""


def translate(
    error: Exception, *, sent: bool, script: Script | None = None, is_inside: bool = False
) -> Exception:
    """The taxonomy's word for what redis-py raised. `sent`: whether the command had left; `script`: which it
    called; `is_inside`: the error is of a command inside of it, though its text does not show that.

    An engine refuses a script for what `_TAKES_NO_WRITES` and a full memory mean only before its first write.
    Any other error inside a script may come after some writes, which the engine does not undo.
    """
    text = _answer_of(error)
    word = text.split(" ")[0]
    if isinstance(error, OutOfMemoryError) or word == "OOM" or _OUT_OF_MEMORY in text:
        return StoreFull("The engine is at its memory limit; the change was not applied.")
    if word in _TAKES_NO_WRITES:
        return WritesRefused(f"The engine takes no writes now ({word}){NOT_APPLIED}.")
    if script is not None and script.writes and (is_inside or _INSIDE_A_SCRIPT.search(text)):
        cut_off = PartlyApplied()
        cut_off.__cause__ = error
        return cut_off
    if word in _REFUSES_CREDENTIALS:
        return StoreUnavailable(f"The engine refuses our credentials ({word}).")
    if _NO_SUCH_DATABASE in text:
        # At the handshake of a connection.
        return StoreUnavailable(
            f"The engine cannot be reached{NOT_APPLIED}.",
            for_operators="CARTSTORE_REDIS_URL names a database number that the engine does not have.",
        )
    if isinstance(error, ResponseError):
        return ContractError(f"The engine refused a script: {text}")
    if sent:
        return OutcomeUnknown()
    return StoreUnavailable("The engine cannot be reached; the change was not applied.")


def _answer_of(error: Exception) -> str:
    """What the engine answered, in its words; redis-py takes the first one away from what it has a class for,
    and some of those classes are of lost connections."""
    word = getattr(error, "status_code", None)
    return f"{word} {error}" if word else str(error)


class PooledCaller:
    """One connection per call under way, from a bounded pool."""

    def __init__(self, pool: BlockingConnectionPool) -> None:
        self._pool = pool

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Reply:
        try:
            connection: Any = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error
        sent = False
        try:
            packed = connection.pack_command(*script.command, len(keys), *keys, connection.identity, *args)
            # From here on bytes may be on the wire even if sending fails midway.
            sent = True
            await connection.send_packed_command(packed)
            try:
                return await connection.read_response()
            except ResponseError as error:
                if not _is_missed(error):
                    raise
                # Nothing ran. EVAL runs the text, and makes a script known for the calls that follow.
                if script.library:
                    await _load(connection, script)
                packed = connection.pack_command(
                    "EVAL", script.text, len(keys), *keys, connection.identity, *args
                )
                await connection.send_packed_command(packed)
                return await connection.read_response()
        except ResponseError as error:
            raise translate(error, sent=True, script=script) from error
        except (RedisConnectionError, RedisTimeoutError, RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            raise translate(error, sent=sent) from error
        except asyncio.CancelledError:
            # The reply is still under way: the next user of this connection would get it as its own.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._pool.release(connection)

    async def identity(self) -> str:
        """The identity of the engine that a new call would reach. Raises StoreUnavailable."""
        try:
            connection: Any = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error
        try:
            return str(connection.identity)
        finally:
            await self._pool.release(connection)


def _is_missed(error: ResponseError) -> bool:
    return isinstance(error, NoScriptError) or f"ERR {error}".startswith(MISSED)


async def _load(connection: Any, script: Script) -> None:
    """Make a function known for the calls that follow, if the engine lets us."""
    await connection.send_packed_command(
        connection.pack_command("FUNCTION", "LOAD", "REPLACE", script.library)
    )
    with suppress(ResponseError):
        await connection.read_response()


class ClientCaller:
    """Calls through a redis-py client whose engine never changes: fakeredis, in the contract suite, and a
    rebuild. Functions are called as the scripts that they also are."""

    def __init__(self, client: Redis, identity: str = "fake:0") -> None:
        self._client = client
        self._identity = identity

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Reply:
        try:
            return await self._client.evalsha(script.sha, len(keys), *keys, self._identity, *args)
        except NoScriptError:
            try:
                return await self._client.eval(script.source, len(keys), *keys, self._identity, *args)
            except RedisError as error:
                raise translate(error, sent=True, script=script) from error
        except RedisError as error:
            raise translate(error, sent=True, script=script) from error

    async def identity(self) -> str:
        return self._identity
