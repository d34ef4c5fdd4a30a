"""What tests of the record rely on: a database from the pool is as a new one."""

from __future__ import annotations

import pytest
from databases import Databases

from cartstore.embedded import Database
from cartstore.errors import StoreUnavailable

_ROWS = "SELECT (SELECT count(*) FROM products), (SELECT json_agg(outbox_cursor) FROM outbox_cursor)"


def test_database_that_was_used_has_the_rows_of_a_new_one(database: Database, databases: Databases) -> None:
    name = databases.take()
    before = database.execute(_ROWS, name)
    database.execute("UPDATE outbox_cursor SET seq = 7, epoch = 2", name)
    database.execute("DELETE FROM alembic_version", name)
    database.execute(f"ALTER DATABASE {name} SET work_mem = '2MB'")

    databases.give_back(name)

    assert databases.take() == name
    assert database.execute(_ROWS, name) == before
    assert database.execute("SELECT count(*) FROM alembic_version", name) == "1"
    assert database.execute("SHOW work_mem", name) == database.execute("SHOW work_mem")
    databases.give_back(name)


@pytest.mark.parametrize(
    "alteration",
    [
        "DROP TABLE rejected_events",
        "ALTER TABLE outbox_cursor ADD COLUMN odd integer",
        "ALTER TABLE outbox_cursor ALTER COLUMN seq SET DEFAULT 3",
        "CREATE FUNCTION odd() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "GRANT SELECT ON outbox_cursor TO pg_monitor",
    ],
)
def test_database_that_was_altered_is_dropped(
    database: Database, databases: Databases, alteration: str
) -> None:
    name = databases.take()
    database.execute(alteration, name)

    databases.give_back(name)

    with pytest.raises(StoreUnavailable, match="does not exist"):
        database.execute("SELECT 1", name)
