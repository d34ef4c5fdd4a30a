"""The migrations: up, down, twice at once, and equal to what tables.py says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from cartstore import cli
from cartstore.archive import Archive, migrate
from cartstore.archive.connecting import connector
from cartstore.archive.schema import BASE, newest_revision
from cartstore.archive.tables import metadata
from cartstore.errors import ConfigurationError
from cartstore.model import Partition, Position

CONSTRAINTS = """
    SELECT c.relname || '.' || k.conname || ': ' || pg_get_constraintdef(k.oid)
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema
"""
INDEXES = "SELECT replace(indexdef, :schema || '.', '') FROM pg_indexes WHERE schemaname = :schema"
TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"


@pytest.fixture
def url(database_url: str) -> str:
    return database_url


async def ask(url: str, sql: str, **parameters: str) -> list[str]:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connector(url, command_timeout_seconds=10)
    )
    async with engine.connect() as connection:
        rows = (await connection.execute(text(sql), parameters)).all()
    await engine.dispose()
    return sorted(str(row[0]) for row in rows)


async def test_migrate_makes_the_same_tables_when_gone_down_and_up(url: str) -> None:
    before = [await ask(url, sql, schema="public") for sql in (CONSTRAINTS, INDEXES)]

    await migrate(url, revision=BASE)
    between = await ask(url, TABLES)
    await migrate(url)

    assert between == ["0"]
    assert [await ask(url, sql, schema="public") for sql in (CONSTRAINTS, INDEXES)] == before


async def test_migrate_does_its_work_once_when_called_by_two_at_once(url: str) -> None:
    await migrate(url, revision=BASE)

    await asyncio.gather(migrate(url), migrate(url), migrate(url))

    assert await ask(url, "SELECT seq FROM outbox_cursor") == ["0"]


async def test_migrate_logs_nothing_on_the_terminal(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)

    await migrate(url, revision=BASE)
    await migrate(url)

    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers


async def test_metadata_equals_the_migrated_tables(url: str) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connector(url, command_timeout_seconds=10)
    )

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return [
            change
            for change in compare_metadata(context, metadata)
            if getattr(change[1], "name", "") != "alembic_version"
        ]

    async with engine.connect() as connection:
        found = await connection.run_sync(differences)
    await engine.dispose()

    assert found == []


async def test_metadata_equals_the_migrated_constraints_and_indexes(url: str) -> None:
    """Alembic compares no CHECK, so the tables are made a second time, in a schema of their own."""
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connector(url, command_timeout_seconds=10)
    )
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA model"))
        await connection.execute(text("SET LOCAL search_path TO model"))
        await connection.run_sync(metadata.create_all)
    await engine.dispose()

    for sql in (CONSTRAINTS, INDEXES):
        modelled = [row.replace("model.", "") for row in await ask(url, sql, schema="model")]
        migrated = [
            row.replace("public.", "") for row in await ask(url, sql, schema="public") if "alembic" not in row
        ]
        assert migrated == modelled


async def test_open_finds_a_cursor_at_zero_in_a_fresh_database(url: str) -> None:
    archive = await Archive.open(url, Partition("main"))

    cursor = await archive.cursor()
    await archive.close()

    assert cursor == (Position(0, 0), "")


async def test_open_refuses_a_database_without_tables(url: str) -> None:
    await migrate(url, revision=BASE)

    with pytest.raises(ConfigurationError, match="cartstore migrate"):
        await Archive.open(url, Partition("main"))


@pytest.fixture
async def execute(url: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    async def execute(*statements: str) -> None:
        async with engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connector(url, command_timeout_seconds=10)
    )
    yield execute
    await engine.dispose()


async def open_archive(url: str) -> Archive:
    return await Archive.open(url, Partition("main"))


LATER = "UPDATE alembic_version SET version_num = '9999'"


async def test_open_and_migrate_go_on_when_a_later_version_has_migrated(url: str, execute: Any) -> None:
    await execute(LATER)

    await migrate(url)
    archive = await Archive.open(url, Partition("main"))
    await archive.close()

    assert await ask(url, "SELECT version_num FROM alembic_version") == ["9999"]


async def test_migrate_command_says_that_the_tables_are_newer_and_of_which_revision(
    url: str, execute: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CARTSTORE_DATABASE_URL", url)
    monkeypatch.setenv("CARTSTORE_REDIS_URL", "redis://nobody.asks")

    status = await asyncio.to_thread(cli.main, ["migrate"])
    of_ours = capsys.readouterr().out
    await execute(LATER)
    later_status = await asyncio.to_thread(cli.main, ["migrate"])
    of_later = capsys.readouterr().out

    assert (status, later_status) == (0, 0)
    assert of_ours == f"The database has the tables of this cartstore (revision {newest_revision()}).\n"
    assert of_later.startswith("The database has newer tables, of a later cartstore: their revision is 9999")
    assert f"this one's is {newest_revision()}" in of_later


async def test_open_and_migrate_refuse_when_a_later_version_lets_only_later_ones_in(
    url: str, execute: Any
) -> None:
    await execute(LATER, "COMMENT ON TABLE alembic_version IS 'cartstore from 9998'")

    for use in (open_archive, migrate):
        with pytest.raises(ConfigurationError, match="tables of a later cartstore"):
            await use(url)


async def test_open_and_migrate_refuse_when_the_migrations_are_another_program_s(
    url: str, execute: Any
) -> None:
    await execute("UPDATE alembic_version SET version_num = 'ab12cd34ef56'")

    for use in (open_archive, migrate):
        with pytest.raises(ConfigurationError, match=r"another program .*'ab12cd34ef56'"):
            await use(url)


async def test_migrate_refuses_when_the_tables_are_another_program_s(url: str, execute: Any) -> None:
    await migrate(url, revision=BASE)
    await execute("CREATE TABLE orders (number int)")

    with pytest.raises(ConfigurationError, match="table 'orders' that cartstore did not make"):
        await migrate(url)


async def test_migrate_names_the_right_when_the_user_lacks_it(url: str, execute: Any) -> None:
    await migrate(url, revision=BASE)
    await execute("DROP TABLE alembic_version", "CREATE ROLE reader LOGIN")

    with pytest.raises(ConfigurationError, match=r"lacks a right: .*permission denied for schema public"):
        await migrate(url.replace("postgres@", "reader@"))

    await execute("DROP ROLE reader")
