"""Locks that live in PostgreSQL, because the engine cannot be asked while it is what is being recovered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import text

from cartstore.archive.database import Database

_RECOVERY_LOCK: Final = 0x63617274
"""Any number that nothing else in the database uses: "cart" in ASCII."""


@asynccontextmanager
async def recovering(database: Database) -> AsyncIterator[None]:
    """Only one recoverer at a time; a holder that dies lets go with its connection.

    Raises StoreUnavailable, also when another recoverer holds it for longer than a statement may take.
    """
    async with database.transaction() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _RECOVERY_LOCK})
        yield
