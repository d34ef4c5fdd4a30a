"""How a program gets to the servers of a data dir: by its settings, by attaching, or by starting its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio

from cartstore.datadir import DataDir
from cartstore.embedded import Engine, embedded_parts, parts, queue_url_beside, resolve
from cartstore.errors import ConfigurationError, StoreUnavailable
from cartstore.settings import Settings


@pytest.fixture
def data_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cartstore-"))
    yield folder / "shop"
    shutil.rmtree(folder)


async def works(settings: Settings) -> bool:
    for url in (settings.redis_url, settings.queue_url):
        async with redis.asyncio.Redis.from_url(url) as client:
            await client.ping()
    connection = await asyncpg.connect(settings.database_url)
    await connection.close()
    return True


def is_running(pid: str) -> bool:
    return Path(f"/proc/{int(pid)}").exists()


def left_in(data_dir: Path) -> list[str]:
    """What is in `run` when nothing runs."""
    return sorted(path.name for path in (data_dir / "run").iterdir())


async def test_embedded_parts_change_nothing_when_both_urls_are_set(data_dir: Path) -> None:
    settings = Settings(redis_url="redis://a", database_url="postgresql://b")

    async with embedded_parts(settings, data_dir) as complete:
        assert complete is settings

    assert not os.path.exists(data_dir)  # noqa: ASYNC240 (blocks for no time)


async def test_embedded_parts_start_servers_for_the_life_of_the_context(data_dir: Path) -> None:
    async with embedded_parts(Settings(namespace="shop"), data_dir) as complete:
        assert await works(complete)
        assert complete.namespace == "shop"
        assert len(complete.jwt_secret) >= 32
        pids = [(data_dir / "run" / f"{name}.pid").read_text() for name in ("engine", "postgres")]

    assert not any(is_running(pid) for pid in pids)
    assert left_in(data_dir) == []


async def test_embedded_parts_find_what_an_earlier_context_kept(data_dir: Path) -> None:
    async with (
        embedded_parts(Settings(), data_dir) as complete,
        redis.asyncio.Redis.from_url(complete.redis_url) as client,
    ):
        await client.set("kept", 1)

    async with (
        embedded_parts(Settings(), data_dir) as again,
        redis.asyncio.Redis.from_url(again.redis_url) as client,
    ):
        assert await client.get("kept") == b"1"
        assert again == complete


async def test_embedded_parts_attach_when_servers_run(data_dir: Path) -> None:
    async with embedded_parts(Settings(), data_dir) as first, embedded_parts(Settings(), data_dir) as second:
        assert first == second

    assert await asyncio.to_thread(DataDir(data_dir).services) is None


async def test_embedded_parts_wait_for_a_holder_that_is_starting(data_dir: Path) -> None:
    folder = DataDir(data_dir)

    async def attach() -> Settings:
        async with embedded_parts(Settings(), data_dir) as complete:
            return complete

    with folder.lock():
        attaching = asyncio.create_task(attach())
        await asyncio.sleep(0.1)
        assert not attaching.done()
        announced = Settings(redis_url="redis://a", queue_url="redis://q", database_url="postgresql://b")
        parts.announce(folder, announced)
        complete = await attaching

    assert (complete.redis_url, complete.queue_url, complete.database_url) == (
        "redis://a",
        "redis://q",
        "postgresql://b",
    )


async def test_embedded_parts_refuse_when_the_holder_never_gets_ready(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "START_SECONDS", 0.0)
    with DataDir(data_dir).lock(), pytest.raises(ConfigurationError, match="in use by another cartstore"):
        async with embedded_parts(Settings(), data_dir):
            pass


async def test_embedded_parts_start_only_the_engine_when_the_database_has_a_url(data_dir: Path) -> None:
    async with embedded_parts(Settings(database_url="postgresql://b"), data_dir) as complete:
        assert complete.database_url == "postgresql://b"
        assert complete.redis_url.startswith("unix:///")
        assert not (data_dir / "postgres").exists()


async def test_embedded_parts_work_below_a_path_too_long_for_sockets(data_dir: Path) -> None:
    async with embedded_parts(Settings(), data_dir / ("x" * 100)) as complete:
        assert await works(complete)
        sockets = complete.database_url.partition("host=")[2]

    assert not os.path.exists(sockets)  # noqa: ASYNC240 (blocks for no time)
    assert left_in(data_dir / ("x" * 100)) == []


async def test_embedded_parts_leave_nothing_running_when_one_cannot_start(data_dir: Path) -> None:
    folder = DataDir(data_dir)
    (folder.path / "postgres").mkdir()
    (folder.path / "postgres" / "PG_VERSION").write_text("7\n")

    with pytest.raises(StoreUnavailable, match="The database ended"):
        async with embedded_parts(Settings(), data_dir):
            pass

    assert not folder.is_locked()
    assert not is_running((data_dir / "engine" / "engine.pid").read_text())


async def test_until_ready_gives_up_when_a_server_takes_too_long(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(data_dir / "engine", password="x")
    engine.prepare()
    engine.spawn()
    monkeypatch.setattr(engine, "ready", lambda: False)

    with pytest.raises(StoreUnavailable, match="was not ready within 0 s"):
        await parts.until_ready(engine, timeout_seconds=0)

    engine.kill()


def test_resolve_refuses_when_nothing_runs(data_dir: Path) -> None:
    DataDir(data_dir)

    with pytest.raises(
        ConfigurationError, match=r"Nothing runs on the data dir .*start `cartstore up --data-dir"
    ):
        resolve(data_dir, Settings())


def test_resolve_refuses_an_absent_data_dir_and_makes_none(data_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no data dir"):
        resolve(data_dir, Settings())

    assert not data_dir.exists()


def test_resolve_finds_what_runs(data_dir: Path) -> None:
    folder = DataDir(data_dir)
    announced = Settings(redis_url="redis://a", queue_url="redis://q", database_url="postgresql://b")
    with folder.lock():
        parts.announce(folder, announced)

        complete = resolve(data_dir, Settings(database_url="postgresql://mine"))

    assert complete == Settings(
        redis_url="redis://a",
        queue_url="redis://q",
        database_url="postgresql://mine",
        jwt_secret=folder.secrets().jwt_secret,
    )


def test_resolve_takes_only_the_secret_from_the_data_dir_when_urls_are_set(data_dir: Path) -> None:
    complete = resolve(data_dir, Settings(redis_url="redis://a:1/0", database_url="postgresql://b"))

    assert complete.queue_url == "redis://a:1/1"
    assert complete.jwt_secret == DataDir(data_dir).secrets().jwt_secret


def test_resolve_needs_no_data_dir_when_all_is_set(data_dir: Path) -> None:
    settings = Settings(
        redis_url="redis://a", queue_url="redis://q", database_url="postgresql://b", jwt_secret="s" * 32
    )

    assert resolve(data_dir, settings) is settings
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("url", "beside"),
    [
        ("redis://u:p%40@host:1/0", "redis://u:p%40@host:1/1"),
        ("rediss://host", "rediss://host/1"),
        ("redis://host?db=3&protocol=3", "redis://host/1?protocol=3"),
        ("unix:///a%20b/s?password=p%2B%20q&db=0", "unix:///a%20b/s?password=p%2B%20q&db=1"),
    ],
)
def test_queue_url_is_database_1_of_the_same_server(url: str, beside: str) -> None:
    assert queue_url_beside(url) == beside
