"""Brings a database to this version's tables, up or down. Owns Alembic; nothing else imports it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from cartstore.archive.database import connector, translated

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS: Final = Path(__file__).parent / "migrations"

HEAD: Final = "head"
BASE: Final = "base"

MIGRATION_TIMEOUT_SECONDS: Final = 600.0
"""Waiting for another process that migrates the same database included."""

_LOCK: Final = 0x63617274_73746F72
"""The advisory lock's number: `cartstor` in ASCII."""


async def migrate(database_url: str, *, revision: str = HEAD) -> None:
    """Bring the database's tables to a revision (the newest by default), and do nothing when they are.

    Two processes may call it at once: the second waits and finds the work done. One transaction: a
    failure leaves the tables as they were. Raises StoreUnavailable, ConfigurationError.
    """
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connector(database_url, command_timeout_seconds=MIGRATION_TIMEOUT_SECONDS),
        poolclass=NullPool,
    )
    with translated():
        try:
            async with engine.begin() as connection:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
                await connection.run_sync(_move_to, revision)
        finally:
            await engine.dispose()


def is_current(connection: Connection) -> bool:
    """Whether the database's tables are those of this version."""
    # Read without Alembic, whose import alone takes half a second: every process asks this when it starts.
    if not inspect(connection).has_table("alembic_version"):
        return False
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == newest_revision()


def newest_revision() -> str:
    """The revision of the last migration, by the names of their files: v0001_record.py is 0001."""
    names = [path.name for path in (_MIGRATIONS / "versions").glob("v*.py")]
    return max(match[1] for name in names if (match := re.match(r"v(\d+)_", name)))


def _move_to(connection: Connection, revision: str) -> None:
    if revision == HEAD and is_current(connection):
        return
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    (command.downgrade if revision == BASE else command.upgrade)(config, revision)


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # Doubled, because the value passes a formatter to which % is special.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
