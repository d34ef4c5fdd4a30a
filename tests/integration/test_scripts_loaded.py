"""A process that has no descriptor left cannot read a script: all are read when a store is opened."""

from __future__ import annotations

import pytest
from chaos.shop import opened

from cartstore.redis import scripts


async def test_no_script_is_read_from_a_file_when_the_store_is_open(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts.script.cache_clear()

    def read(*path: str) -> str:
        raise OSError(24, "Too many open files", "/".join(path))

    async with opened(redis_url, database_url):
        names = scripts.script_names()
        monkeypatch.setattr(scripts, "_read", read)
        assert [scripts.script(name).name for name in names] == names
