"""Migrated databases for tests: made from a template, emptied after each test, and used again.

Making one takes the server many times as long as emptying one. One whose tables a test altered is dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import asyncpg

from cartstore.embedded import Database

T = TypeVar("T")

_SHAPE: Final = """
    WITH ours AS (
        SELECT * FROM pg_class
        WHERE relnamespace <> ALL (ARRAY['pg_catalog', 'information_schema', 'pg_toast']::regnamespace[])
    ), parts AS (
        SELECT concat_ws(',', 'class', oid, relname, relkind, relowner, relacl, reloptions) AS part FROM ours
        UNION ALL
        SELECT concat_ws(
            ',', 'column', attrelid, attname, atttypid, attnotnull, attisdropped, attacl,
            pg_get_expr(adbin, adrelid)
        )
        FROM ours JOIN pg_attribute ON attrelid = ours.oid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        UNION ALL
        SELECT concat_ws(',', 'constraint', oid, conname, convalidated) FROM pg_constraint
        UNION ALL
        SELECT concat_ws(',', 'trigger', oid, tgenabled) FROM pg_trigger
        UNION ALL
        SELECT concat_ws(',', 'function', oid, xmin) FROM pg_proc WHERE oid >= 16384
        UNION ALL
        SELECT concat_ws(',', 'schema', oid, nspname, nspacl) FROM pg_namespace
    )
    SELECT md5(string_agg(part, ';' ORDER BY part)) FROM parts
"""
"""Two databases with the same tables give the same text, whatever rows are in them."""


class Databases:
    """The databases of one test process on one server. `close` ends its connection."""

    def __init__(self, server: Database, template: str) -> None:
        """`template` names a database that nobody is connected to, now or later."""
        self._server = server
        self._template = template
        self._free: list[str] = []
        self._numbers = itertools.count(1)
        # A loop of its own, in a thread of its own: the loops of the tests' thread belong to pytest-asyncio.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._admin: Any = self._call(asyncpg.connect(server.url("postgres")))
        self._shape, self._emptying = self._call(self._look_at_template())

    def take(self) -> str:
        """The name of a migrated database without rows but those that a migration makes."""
        if self._free:
            return self._free.pop()
        name = f"test_{next(self._numbers)}"
        # By way of the write-ahead log, which is the other strategy, it takes more than twice as long.
        self._call(
            self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {self._template} STRATEGY file_copy")
        )
        return name

    def give_back(self, name: str) -> None:
        """Ends every connection to it."""
        if self._call(self._empty(name)):
            self._free.append(name)
        else:
            self._call(self._admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))

    def close(self) -> None:
        self._call(self._admin.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _look_at_template(self) -> tuple[str, str]:
        """Its shape, and statements that give a database of this shape the template's rows."""
        connection = await asyncpg.connect(self._server.url(self._template))
        try:
            statements = ["SET session_replication_role = replica"]
            tables = await connection.fetch(
                "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind = 'r'"
                " AND relnamespace = 'public'::regnamespace"
            )
            statements += [f"DELETE FROM {table['name']}" for table in tables]
            for table in tables:
                columns = await connection.fetchval(
                    "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute"
                    " WHERE attrelid = $1::text::regclass AND attnum > 0"
                    " AND NOT attisdropped AND attgenerated = ''",
                    table["name"],
                )
                rows = await connection.fetchval(
                    f"SELECT quote_literal(json_agg(row)) FROM {table['name']} AS row"
                )
                if rows is not None:
                    statements.append(
                        f"INSERT INTO {table['name']} ({columns}) OVERRIDING SYSTEM VALUE"
                        f" SELECT {columns} FROM json_populate_recordset(NULL::{table['name']}, {rows})"
                    )
            for sequence in await connection.fetch(
                "SELECT format('%I.%I', schemaname, sequencename) AS name, last_value, start_value"
                " FROM pg_sequences"
            ):
                last = sequence["last_value"]
                number = sequence["start_value"] if last is None else last
                statements.append(f"SELECT setval('{sequence['name']}', {number}, {last is not None})")
            return str(await connection.fetchval(_SHAPE)), "; ".join(statements)
        finally:
            await connection.close()

    async def _empty(self, name: str) -> bool:
        """Whether it is as it was when it was made."""
        try:
            await self._admin.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1", name
            )
            await self._admin.execute(f"ALTER DATABASE {name} RESET ALL")
            connection = await asyncpg.connect(self._server.url(name))
        except (asyncpg.PostgresError, OSError):
            return False
        try:
            if await connection.fetchval(_SHAPE) != self._shape:
                return False
            await connection.execute(self._emptying)
        finally:
            await connection.close()
        return True
