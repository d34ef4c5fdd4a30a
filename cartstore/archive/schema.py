"""Brings a database to this version's tables, up or down. Owns Alembic; nothing else imports it.

Migrations come in two steps over two releases: what is added comes first, what is dropped comes once no
process needs it any more. So processes of the release before go on, and start again, after `migrate` has run.
A migration after which they could not says so by the comment on `alembic_version` (`_OLDEST_READER`).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from cartstore.archive.connecting import NO_STATEMENT_CACHE, connector, is_behind_pooler
from cartstore.archive.database import translated
from cartstore.errors import ConfigurationError

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS: Final = Path(__file__).parent / "migrations"

HEAD: Final = "head"
BASE: Final = "base"

MIGRATION_TIMEOUT_SECONDS: Final = 600.0
"""Waiting for another process that migrates the same database included."""

_LOCK: Final = 0x63617274_73746F72
"""The advisory lock's number: `cartstor` in ASCII."""


_REVISION: Final = re.compile(r"\d{4}")
"""What all of our revisions look like, those of releases to come too."""

_OLDEST_READER: Final = re.compile(r"cartstore from (\d{4})")
"""In the comment on `alembic_version`: the oldest revision whose programs can use these tables. No comment:
those of every revision before."""


async def migrate(database_url: str, *, revision: str = HEAD) -> str | None:
    """Bring the database's tables to a revision, up or down. By default to the newest, and then nothing is
    done when they are newer. Gives the revision that they have then; None where there are none any more.

    Two processes may call it at once: the second waits and finds the work done. One transaction: a
    failure leaves the tables as they were. Raises StoreUnavailable, ConfigurationError.
    """
    is_pooled = await is_behind_pooler(database_url)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connector(
            database_url, command_timeout_seconds=MIGRATION_TIMEOUT_SECONDS, is_pooled=is_pooled
        ),
        connect_args=NO_STATEMENT_CACHE if is_pooled else {},
        poolclass=NullPool,
    )
    with translated():
        try:
            async with engine.begin() as connection:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
                return await connection.run_sync(_move_to, revision)
        finally:
            await engine.dispose()


def check_tables(connection: Connection) -> None:
    """Raise ConfigurationError unless this version can use the tables: its own, or those of a later one that
    still lets it."""
    revision = _revision_of(connection)
    if revision is None or revision < newest_revision():
        raise ConfigurationError("The database has not the tables of this version; run `cartstore migrate`.")


def _revision_of(connection: Connection) -> str | None:
    """The revision of the database's tables, None where there are none. Raises ConfigurationError for a
    stranger's database, and for one of a later version that programs of this one cannot use."""
    # Read without Alembic, whose import alone takes half a second: every process asks this when it starts.
    tables = inspect(connection)
    if not tables.has_table("alembic_version"):
        return None
    revisions = list(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
    if not revisions:
        return None
    revision = str(revisions[0])
    if len(revisions) > 1 or not _REVISION.fullmatch(revision) or not tables.has_table("outbox_cursor"):
        raise ConfigurationError(
            f"The database has tables of another program (its alembic_version says {revision[:40]!r}): give "
            "cartstore a database of its own."
        )
    if revision > newest_revision():
        comment = connection.execute(text("SELECT obj_description('alembic_version'::regclass)")).scalar()
        oldest = _OLDEST_READER.search(str(comment))
        if oldest is not None and oldest[1] > newest_revision():
            raise ConfigurationError(
                f"The database has the tables of a later cartstore (revision {revision}), which this one "
                f"(revision {newest_revision()}) cannot use: start the later version."
            )
    return revision


def revision_of(connection: Connection) -> str | None:
    """The revision of tables that were made by a migration."""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@cache
def newest_revision() -> str:
    """The revision of the last migration, by the names of their files: v0001_record.py is 0001."""
    names = [path.name for path in (_MIGRATIONS / "versions").glob("v*.py")]
    return max(match[1] for name in names if (match := re.match(r"v(\d+)_", name)))


def _move_to(connection: Connection, revision: str) -> str | None:
    found = _revision_of(connection)
    if revision == HEAD and found is not None and found >= newest_revision():
        return found
    if found is None and (foreign := _strangers(connection)):
        raise ConfigurationError(
            f"The database has a table {foreign!r} that cartstore did not make: give cartstore a database of "
            "its own."
        )
    from alembic import command
    from alembic.util import CommandError

    config = _config()
    config.attributes["connection"] = connection
    try:
        goes_down = revision == BASE or (revision != HEAD and found is not None and revision < found)
        (command.downgrade if goes_down else command.upgrade)(config, revision)
    except CommandError as error:
        raise ConfigurationError(f"The database's tables cannot be migrated: {error}.") from error
    return _revision_of(connection)


def _strangers(connection: Connection) -> str | None:
    """The first table that has the name of one of ours, in a database that was never migrated."""
    from cartstore.archive.tables import metadata

    existing = set(inspect(connection).get_table_names())
    return min(existing & set(metadata.tables), default=None)


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # Doubled, because the value passes a formatter to which % is special.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
