"""How `up` keeps a child running that will not run: the pauses between its starts."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cartstore import supervisor
from cartstore.datadir import DataDir
from cartstore.settings import Settings
from cartstore.supervisor import BACKOFF_FIRST_SECONDS, BACKOFF_MAX_SECONDS, Options, _Up

STARTS = 12


class Child:
    """Ends as soon as it is started."""

    name = "child"
    pid = None
    starts = 0

    def poll(self) -> int:
        return 1

    def prepare(self) -> None:
        pass

    def spawn(self) -> None:
        self.starts += 1


@pytest.mark.parametrize(
    ("settings", "imports"),
    [
        ({}, True),
        ({"redis_url": "redis://engine"}, False),
        ({"database_url": "postgresql://database/c"}, False),
        (
            {
                "env": "production",
                "redis_url": "redis://engine",
                "database_url": "postgresql://database/c",
                "jwt_secret": "s" * 32,
                "public_url": "https://shop.example",
            },
            False,
        ),
    ],
)
async def test_demo_catalog_is_imported_into_embedded_servers_only(
    settings: dict[str, Any], imports: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[str] = []

    async def remember(_: object, file: Path) -> None:
        imported.append(file.name)

    async def none(_: object) -> None:
        pass

    monkeypatch.setattr(supervisor, "open_store", lambda *_, **__: nullcontext())
    monkeypatch.setattr(supervisor, "_first_sku", none)
    monkeypatch.setattr(
        supervisor.terminal, "import_with_report", lambda store, file, *_, **__: remember(store, file)
    )
    options = Options(data_dir=tmp_path, host="127.0.0.1", port=0, processes=1)
    complete = Settings(redis_url="redis://engine", database_url="postgresql://database/c")

    await _Up(Settings(**settings), options, asyncio.Event())._import(complete)

    assert imported == (["catalog.csv"] if imports else [])


async def test_pauses_grow_up_to_a_bound_when_a_child_ends_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    child: Any = Child()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == STARTS:
            raise asyncio.CancelledError

    async def is_ready(_: object) -> None:
        pass

    monkeypatch.setattr(supervisor.asyncio, "sleep", pause)
    monkeypatch.setattr(supervisor, "until_ready", is_ready)
    monkeypatch.setattr(supervisor, "_obituary", lambda _: "A child ended")
    folder = DataDir(tmp_path)
    options = Options(data_dir=tmp_path, host="127.0.0.1", port=0, processes=1)
    up = _Up(Settings(), options, asyncio.Event())

    with pytest.raises(asyncio.CancelledError):
        await up._keep(child, folder, lambda: None)

    assert pauses[:3] == [BACKOFF_FIRST_SECONDS, 2 * BACKOFF_FIRST_SECONDS, 4 * BACKOFF_FIRST_SECONDS]
    assert pauses == sorted(pauses)
    assert pauses[-1] == BACKOFF_MAX_SECONDS
    assert child.starts == STARTS - 1
    assert capsys.readouterr().err.count("A child ended. It is started again.") == STARTS
