"""The connection to PostgreSQL: which servers are refused, and what its faults become."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from archive_shop import Story
from sqlalchemy import text

from cartstore.archive import Archive, connecting, migrate
from cartstore.archive import database as module
from cartstore.archive.connecting import libpq_url
from cartstore.embedded import Database
from cartstore.errors import (
    ConfigurationError,
    ContractError,
    EventRefused,
    OutcomeUnknown,
    StoreUnavailable,
)
from cartstore.model import Partition, Position

PATIENCE_SECONDS = 60.0
"""Only there to end a test that hangs: nothing is measured with it."""


@pytest.fixture
def url(database_url: str) -> str:
    return database_url


@pytest.fixture
async def archive(url: str) -> AsyncIterator[Archive]:
    archive = await Archive.open(url, Partition("main"))
    yield archive
    await archive.close()


@pytest.fixture
def own_database() -> Iterator[Database]:
    """A server that the test may kill."""
    folder = Path(tempfile.mkdtemp(prefix="cartstore-"))
    database = Database(folder / "postgres")
    database.start()
    yield database
    database.stop()
    shutil.rmtree(folder, ignore_errors=True)


class Hanging:
    """A record on a server that stands still when told to: connections are taken, and nobody answers."""

    def __init__(self, server: Database, archive: Archive) -> None:
        self._server = server
        self._archive = archive
        self.has_sent = asyncio.Event()

    async def read(self) -> int:
        async with self._archive.database.reading() as connection:
            return int((await connection.execute(text("SELECT 1"))).scalar_one())

    async def read_twice(self) -> int:
        """The second answer tells whether the connection outlived the first."""
        async with self._archive.database.reading() as connection:
            asyncio.get_running_loop().call_soon(self.has_sent.set)
            await connection.execute(text("SELECT 1"))
            return int((await connection.execute(text("SELECT 2"))).scalar_one())

    async def write(self) -> None:
        async with self._archive.database.transaction() as connection:
            await connection.execute(text("UPDATE outbox_cursor SET written_in_layout = 5, seq = seq"))

    async def heals(self) -> bool:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with suppress(StoreUnavailable):
                    return await self.read() == 1

    @contextmanager
    def frozen(self) -> Iterator[None]:
        assert self._server.pid is not None
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text()
        # The server first: it starts no further one meanwhile.
        pids = [self._server.pid, *map(int, children.split())]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                # A backend whose client left may have ended.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@pytest.fixture
async def hanging(own_database: Database) -> AsyncIterator[Hanging]:
    await migrate(own_database.url())
    archive = await Archive.open(own_database.url(), Partition("main"))
    yield Hanging(own_database, archive)
    await archive.close()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_libpq_url_keeps_everything_but_the_scheme(scheme: str) -> None:
    rest = "user:secret@host:6432/shop?sslmode=require"

    assert libpq_url(f"{scheme}://{rest}") == f"postgresql://{rest}"


@pytest.mark.parametrize("url", ["", "mysql://localhost/shop", "localhost:5432", "postgresql:shop"])
async def test_open_refuses_a_url_of_another_kind(url: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://"):
        await Archive.open(url, Partition("main"))


async def test_open_refuses_a_url_that_cannot_be_parsed() -> None:
    with pytest.raises(ConfigurationError, match="cannot be used"):
        await Archive.open("postgresql://localhost/shop?sslmode=perhaps", Partition("main"))


async def test_open_refuses_a_server_whose_commits_may_be_lost(database: Database, url: str) -> None:
    name = url.partition("?")[0].rpartition("/")[2]
    database.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")

    with pytest.raises(ConfigurationError, match="synchronous_commit"):
        await Archive.open(url, Partition("main"))


@pytest.mark.parametrize(
    "url", ["postgresql://postgres@127.0.0.1:1/shop", "postgresql://postgres@/shop?host=/nowhere"]
)
async def test_open_says_unavailable_when_nobody_answers(url: str) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await Archive.open(url, Partition("main"))


async def test_open_says_unavailable_when_the_database_is_not_there(url: str) -> None:
    with pytest.raises(StoreUnavailable):
        await Archive.open(url.replace("/test_", "/missing_"), Partition("main"))


async def test_migrate_says_unavailable_when_nobody_answers() -> None:
    with pytest.raises(StoreUnavailable):
        await migrate("postgresql://postgres@127.0.0.1:1/shop")


async def test_claim_accepts_the_same_deployment_again(archive: Archive) -> None:
    await archive.claim(namespace="main", partitions=1, key_layout=1)

    await archive.claim(namespace="main", partitions=1, key_layout=1)


async def test_claim_refuses_another_deployment(archive: Archive) -> None:
    await archive.claim(namespace="main", partitions=1, key_layout=1)

    with pytest.raises(ConfigurationError, match="namespace main, but this cartstore wants other"):
        await archive.claim(namespace="other", partitions=1, key_layout=1)


async def test_pool_heals_when_the_database_was_restarted(own_database: Database) -> None:
    url = own_database.url()
    await migrate(url)
    archive = await Archive.open(url, Partition("main"))
    await archive.apply_events([Story().adjusted("mug", 5, 5)])
    own_database.kill()

    async def ask_until_it_fails() -> None:
        # Its backends outlive the server by a moment, and answer in it.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                await archive.ping()

    with pytest.raises(StoreUnavailable):
        await ask_until_it_fails()
    # Blocks the loop, so that the pool learns of the death of its connections only when it uses one.
    own_database.start()
    cursor, _ = await archive.cursor()
    await archive.close()

    assert cursor == Position(1, 1)


async def test_pool_heals_when_a_restart_went_unnoticed(own_database: Database) -> None:
    url = own_database.url()
    await migrate(url)
    archive = await Archive.open(url, Partition("main"))
    await archive.ping()
    own_database.kill()
    own_database.start()

    position = await archive.apply_events([Story().adjusted("mug", 5, 5)])
    await archive.close()

    assert position == Position(1, 1)


async def test_transaction_begins_anew_when_all_pooled_connections_died_just_now(
    archive: Archive, database: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They count as used a moment ago, and the loop has no turn in which it could see them end."""
    monkeypatch.setattr(module, "IDLE_SECONDS_MAX", 3_600.0)
    name = url.partition("?")[0].rpartition("/")[2]
    story = Story()
    async with AsyncExitStack() as stack:
        for _ in range(4):
            pooled = await stack.enter_async_context(archive.database.reading())
            await pooled.execute(text("SELECT 1"))
    kill = (
        "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity"
        f" WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )

    assert database.execute(kill, name) == "4"
    position = await archive.apply_events([story.adjusted("mug", 5, 5)])

    assert position == Position(1, 1)


async def test_every_way_in_says_unavailable_when_the_database_hangs(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the call meets: an idle connection, one that counts as alive, or none yet."""
    monkeypatch.setattr(module, "COMMAND_TIMEOUT_SECONDS", 3_600.0)
    monkeypatch.setattr(connecting, "HANG_SECONDS", 0.0)
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_SECONDS", 0.2)
    for name in ("READ_SECONDS_MAX", "LIFE_SECONDS_MAX", "BEGIN_SECONDS_MAX"):
        monkeypatch.setattr(module, name, 0.2)
    for idle_seconds_max in (0.0, 3_600.0):
        monkeypatch.setattr(module, "IDLE_SECONDS_MAX", idle_seconds_max)
        for call in (hanging.read, hanging.write):
            assert await hanging.heals()
            with hanging.frozen():
                async with asyncio.timeout(PATIENCE_SECONDS):
                    for _ in range(3):
                        with pytest.raises(StoreUnavailable):
                            await call()

    assert await hanging.heals()


async def test_answer_is_taken_when_this_process_came_late_to_read_it(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop stands still until the time is over, while the answer lies in the socket."""
    monkeypatch.setattr(module, "IDLE_SECONDS_MAX", 3_600.0)
    monkeypatch.setattr(module, "READ_SECONDS_MAX", 0.2)
    assert await hanging.heals()
    # In the turn after the statement was sent.
    reading = asyncio.create_task(hanging.read_twice())
    await hanging.has_sent.wait()
    time.sleep(0.5)  # noqa: ASYNC251 (this is what it is about)

    assert await reading == 2


async def test_calls_fail_without_asking_when_the_database_was_just_found_to_hang(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIFE_SECONDS_MAX", 0.2)
    monkeypatch.setattr(module, "IDLE_SECONDS_MAX", 0.0)
    monkeypatch.setattr(connecting, "HANG_SECONDS", 3_600.0)
    await hanging.read()
    with hanging.frozen(), pytest.raises(StoreUnavailable):
        await hanging.read()

    for call in (hanging.read, hanging.write):
        # It would answer by now.
        with pytest.raises(StoreUnavailable):
            await call()


async def test_one_call_tries_for_all_when_the_hang_was_a_while_ago(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(module, "LIFE_SECONDS_MAX", 0.2)
    monkeypatch.setattr(module, "IDLE_SECONDS_MAX", 0.0)
    monkeypatch.setattr(connecting, "HANG_SECONDS", 0.0)
    await hanging.read()
    with hanging.frozen():
        with pytest.raises(StoreUnavailable):
            await hanging.read()
        monkeypatch.setattr(connecting, "HANG_SECONDS", 3_600.0)
        trying = asyncio.create_task(hanging.read())
        await asyncio.sleep(0)
        others = await asyncio.gather(*(hanging.read() for _ in range(50)), return_exceptions=True)

        assert {type(other) for other in others} == {StoreUnavailable}
        assert not trying.done()
    await trying

    assert await hanging.read() == 1


async def test_apply_is_of_unknown_outcome_when_the_connection_dies_in_the_commit(
    archive: Archive, database: Database, url: str
) -> None:
    """A deferred trigger makes the commit last long enough to end its connection in the middle."""
    name = url.partition("?")[0].rpartition("/")[2]
    database.execute(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM pg_sleep(30); RETURN NULL; END'",
        name,
    )
    database.execute(
        "CREATE CONSTRAINT TRIGGER linger AFTER UPDATE ON outbox_cursor DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION linger()",
        name,
    )
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        f" WHERE datname = '{name}' AND wait_event = 'PgSleep'"
    )

    applying = asyncio.create_task(archive.apply_events([Story().adjusted("mug", 5, 5)]))
    ended = "0"
    while ended == "0":
        ended = await asyncio.to_thread(database.execute, kill)

    with pytest.raises(OutcomeUnknown):
        await applying


async def test_transaction_is_not_applied_when_the_connection_dies_before_the_commit(
    archive: Archive, database: Database
) -> None:
    async def lose_the_connection() -> None:
        async with archive.database.transaction() as connection:
            await connection.execute(text("UPDATE outbox_cursor SET written_in_layout = 5, seq = 9"))
            pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            database.execute(f"SELECT pg_terminate_backend({pid})")
            await connection.execute(text("SELECT 1"))

    with pytest.raises(StoreUnavailable):
        await lose_the_connection()

    assert (await archive.cursor())[0].seq == 0


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("INSERT INTO stock VALUES ('mug', -1, 0, 0)", EventRefused),
        ("SELECT 1 / 0", EventRefused),
        ("SELECT nonsense", ConfigurationError),
        ("SELECT FROM nowhere", ConfigurationError),
        ("SELECT (", ContractError),
    ],
)
async def test_driver_errors_become_the_taxonomy(
    archive: Archive, statement: str, error: type[Exception]
) -> None:
    async def execute() -> None:
        async with archive.database.transaction() as connection:
            await connection.execute(text(statement))

    with pytest.raises(error) as caught:
        await execute()

    assert type(caught.value) is error
    assert "asyncpg" not in str(caught.value)


async def test_migrate_and_open_take_a_url_with_escapes(url: str) -> None:
    escaped = url.replace("/tmp", quote("/tmp", safe=""))

    archive = await Archive.open(escaped, Partition("main"))
    await archive.ping()
    await archive.close()
