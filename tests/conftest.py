"""The real engine and the real database, one pair per test process, for every test that wants them.

    engine          session   the private Valkey: `.url(db)`, `.tcp_url(db)`, `.pid`, `.kill()`, `.spawn()`
    database        session   the private PostgreSQL: `.url(name)`, `.execute(sql)`
    redis_url       test      the engine's URL, every database number flushed before the test
    database_url    test      a database of the test's own, migrated, without rows
    own             test      an engine that a test may harm, and a client of it (`admin`)

A test that kills or fills a server takes `own`, or starts one itself (`Engine(tmp_path, password=...)`):
engine and database are shared by all tests of the process. Under pytest-xdist each worker is a process of
its own.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from databases import Databases

from cartstore.embedded import Database, Engine

_TEMPLATE = "cartstore"


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Not pytest's own tmp_path: its long names leave no room for a unix socket's."""
    folder = Path(tempfile.mkdtemp(prefix="cartstore-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def engine(server_folder: Path) -> Iterator[Engine]:
    engine = Engine(server_folder / "engine", password="of the tests")
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def database(server_folder: Path) -> Iterator[Database]:
    """The database `cartstore` in it is the migrated template of every test's own; leave it as it is."""
    database = Database(server_folder / "postgres", durable=False)
    database.start()
    _migrate(database.url(_TEMPLATE))
    yield database
    database.stop()


@pytest.fixture
def redis_url(engine: Engine) -> str:
    with redis.Redis.from_url(engine.url()) as client:
        # Scripts stay loaded: flushing them too would cost every test their loading.
        client.flushall()
    return engine.url()


@pytest.fixture
def own(server_folder: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine that a test may harm."""
    engine = Engine(server_folder / f"{abs(hash(request.node.nodeid)):x}", password="own")
    engine.start()
    yield engine
    engine.kill()


@pytest.fixture
def admin(own: Engine) -> Iterator[Any]:
    with redis.Redis.from_url(own.url(), decode_responses=True) as client:
        yield client


@pytest.fixture(scope="session")
def databases(database: Database) -> Iterator[Databases]:
    databases = Databases(database, _TEMPLATE)
    yield databases
    databases.close()


@pytest.fixture
def database_url(database: Database, databases: Databases) -> Iterator[str]:
    name = databases.take()
    yield database.url(name)
    databases.give_back(name)


def _migrate(url: str) -> None:
    """In a thread of its own: the loops of this one belong to pytest-asyncio."""
    # Here, so that tests without a database do not wait for the whole archive's import.
    from cartstore.archive import migrate

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(migrate(url))).result()
