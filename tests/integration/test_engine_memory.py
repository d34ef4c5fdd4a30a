"""The engine's memory bound: the private one has it, a foreign one without it is warned of, and it is
measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis

from cartstore import open_store
from cartstore.datadir import DataDir
from cartstore.embedded import Engine
from cartstore.embedded.parts import missing_parts
from cartstore.exposition import render
from cartstore.redis.memory import EngineMemory
from cartstore.settings import Settings


def test_private_engine_has_a_bound_and_forgets_nothing(engine: Engine) -> None:
    with redis.Redis.from_url(engine.url(), decode_responses=True) as client:
        found = client.config_get("maxmemory", "maxmemory-policy")

    assert found == {"maxmemory": str(engine.memory_bytes), "maxmemory-policy": "noeviction"}
    assert engine.memory_bytes > 0


def test_private_engine_has_the_bound_that_was_set(tmp_path: Path) -> None:
    parts = missing_parts(Settings(engine_memory_mb=300), DataDir(tmp_path / "shop"))

    assert [part.memory_bytes for part in parts if isinstance(part, Engine)] == [300 * 1024 * 1024]


async def test_what_is_left_is_told_and_an_engine_without_a_bound_is_warned_of(
    own: Engine, database_url: str, admin: Any, caplog: Any
) -> None:
    settings = Settings(redis_url=own.url(), database_url=database_url)
    warning = "The engine has no maxmemory"

    async with open_store(settings) as store:
        found = await store.read_engine_memory()
        assert found is not None
        assert 0 < found.available_bytes < found.bound_bytes == own.memory_bytes
        assert warning not in caplog.text
        admin.config_set("maxmemory", 1)
        full = await store.read_engine_memory()
        assert full is not None
        assert full.available_bytes == 0
        admin.config_set("maxmemory", 0)
        assert await store.read_engine_memory() is None
        own.kill()
        assert await store.read_engine_memory() is None
        own.start()
        admin.config_set("maxmemory", 0)
        async with open_store(settings):
            assert warning in caplog.text


def test_metrics_tell_what_is_left() -> None:
    text = render({"checks": {}}, EngineMemory(used_bytes=300, bound_bytes=1_000)).decode()

    assert "cartstore_engine_memory_available_bytes 700.0" in text
    assert "cartstore_engine_memory_limit_bytes 1000.0" in text
    assert "cartstore_engine_memory" not in render({"checks": {}}).decode()
