"""Owns `cartstore doctor`: asks each part of a store by itself, so that one that is away hides no other.

What the opened store says of a part comes before that. Changes nothing but what opening a store changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cartstore.archive import Archive
from cartstore.embedded import embedded_parts
from cartstore.embedded.parts import queue_url_beside
from cartstore.errors import NOT_APPLIED, CartStoreError
from cartstore.model import Partition
from cartstore.redis.clients import CALL_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS
from cartstore.redis.diagnosis import engine_away, replica_warning
from cartstore.settings import Settings
from cartstore.wiring import open_store

_MEANINGS: Final = {
    "engine": "as durable as the engine's own persistence",
    "archived": "after the PostgreSQL commit",
}


_NO_DATABASE: Final = {"database_url": "postgresql://none"}
_NO_ENGINE: Final = {"redis_url": "redis://none"}
"""URLs that nobody connects to, by which a data dir starts its other server only."""


class Finding(msgspec.Struct, frozen=True):
    """What was found of one part."""

    is_ok: bool | None
    """None: nobody can know, because another part is away."""

    detail: str


async def examine(settings: Settings, data_dir: Path) -> dict[str, Finding]:
    """By the name of each part. Raises nothing of a part that is away."""
    try:
        async with embedded_parts(settings, data_dir) as complete:
            opened = await _opened(settings, data_dir)
            parts = await _parts(complete)
    except (CartStoreError, OSError) as error:
        opened = {"store": Finding(False, f"does not open: {_words_of(error)}")}
        parts = await _each_alone(settings, data_dir)
    # A part that is away is told in its own words, which name the cause.
    faults = {name: part for name, part in parts.items() if not part.is_ok}
    return parts | opened | faults


async def _each_alone(settings: Settings, data_dir: Path) -> dict[str, Finding]:
    """The parts one after the other, where one of the data dir's servers did not start: that stops both."""
    found: dict[str, Finding] = {}
    for name, other in (("engine", _NO_DATABASE), ("database", _NO_ENGINE)):
        missing = {key: url for key, url in other.items() if not getattr(settings, key)}
        try:
            async with embedded_parts(msgspec.structs.replace(settings, **missing), data_dir) as complete:
                found |= await _parts(msgspec.structs.replace(complete, **dict.fromkeys(missing, "")))
        except (CartStoreError, OSError) as error:
            found[name] = Finding(False, _words_of(error))
    return found


async def _opened(settings: Settings, data_dir: Path) -> dict[str, Finding]:
    try:
        # A doorbell that nobody hears: looking archives nothing, which is the workers' to do.
        async with open_store(settings, data_dir=data_dir, doorbell=lambda: None) as store:
            readiness: dict[str, Any] = await store.readiness()
            mode = store.ack_mode
    except (CartStoreError, OSError) as error:
        return {"store": Finding(False, f"does not open: {_words_of(error)}")}
    found = {name: Finding(check["ok"], check["detail"]) for name, check in readiness["checks"].items()}
    found["checkouts"] = Finding(True, f"acknowledged in mode {mode}: {_MEANINGS[mode]}")
    return found


async def _parts(settings: Settings) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    if settings.redis_url:
        found["engine"] = await _engine(settings.redis_url)
        queue_url = settings.queue_url or queue_url_beside(settings.redis_url)
        found["queue"] = await _queue(queue_url)
    if settings.database_url:
        found["database"] = await _database(settings)
    return found


async def _engine(url: str) -> Finding:
    try:
        facts = await _info(url, "redis_url")
    except CartStoreError as error:
        return Finding(False, error.for_operators)
    warning = replica_warning(url, facts)
    return Finding(warning is None, warning or "answers")


async def _queue(url: str) -> Finding:
    try:
        await _info(url, "queue_url")
    except CartStoreError as error:
        return Finding(False, error.for_operators.replace("The engine", "The queue's Redis", 1))
    return Finding(True, "answers")


async def _info(url: str, setting: str) -> dict[str, Any]:
    client: Redis = Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=CALL_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        facts: dict[str, Any] = await client.info("replication")
    except (RedisError, OSError, TimeoutError) as error:
        raise engine_away(url, error, setting) from error
    finally:
        await client.aclose()
    return facts


async def _database(settings: Settings) -> Finding:
    try:
        archive = await Archive.open(settings.database_url, Partition(settings.namespace))
        await archive.close()
    except CartStoreError as error:
        return Finding(False, error.for_operators)
    return Finding(True, "answers")


def _words_of(error: CartStoreError | OSError) -> str:
    # Nobody asked for a change.
    return error.for_operators.replace(NOT_APPLIED, "") if isinstance(error, CartStoreError) else str(error)
