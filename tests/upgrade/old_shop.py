"""The shop of the text fixtures (make.py), and the processes of its version that still run."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import redis.asyncio as redis

from cartstore.layout import engine_of

HERE = Path(__file__).parent
GATE = "{main:0}:gate"


@cache
def fixture(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text())


async def load_record(database_url: str) -> None:
    """Its rows, into empty tables of revision 0006 or later."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute((HERE / "record.sql").read_text())
    finally:
        await connection.close()


async def load_engine(redis_url: str) -> None:
    """Its keys, into an empty engine. The gate is that of an engine that is gone."""
    async with redis.Redis.from_url(redis_url) as client:
        for line in (HERE / "engine.jsonl").read_text().splitlines():
            await client.execute_command(*(part.encode("latin-1") for part in json.loads(line)))


async def open_gate(redis_url: str, identity: str) -> None:
    """Let the engine with this identity be the one that the old shop runs on."""
    async with redis.Redis.from_url(redis_url) as client:
        await client.hset(GATE, "identity", engine_of(identity))


class OldProcess:
    """Calls of a process of layout 4, word for word, on the engine that it is connected to."""

    def __init__(self, redis_url: str, database_url: str, identity: str) -> None:
        self._redis_url = redis_url
        self._database_url = database_url
        self._identity = engine_of(identity)

    async def call(self, name: str, *, args: list[Any] | None = None) -> Any:
        """What a script answers."""
        found = fixture("scripts")
        its = found["calls"][name]
        text = "\n\n".join(found["parts"][part] for part in its["parts"]) + "\n"
        given = [self._identity, *(its["args"] if args is None else args)]
        async with redis.Redis.from_url(self._redis_url) as client:
            return await client.eval(text, len(its["keys"]), *its["keys"], *given)

    async def write_cursor(self, job: str) -> None:
        """The statements of a job that write the cursor's row, each in a transaction of its own, as the last
        ones of that job's transactions."""
        connection = await asyncpg.connect(self._database_url)
        try:
            for statement, parameters in fixture("statements")[job]:
                await connection.execute(statement, *parameters)
        finally:
            await connection.close()


async def contents(redis_url: str, *, without: tuple[str, ...] = ()) -> dict[bytes, bytes]:
    """All keys of an engine, to be compared."""
    async with redis.Redis.from_url(redis_url) as client:
        return {
            key: await client.dump(key)
            for key in sorted([key async for key in client.scan_iter()])
            if key.decode() not in without
        }
