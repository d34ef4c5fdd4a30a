"""The watch over the disk, look by look, on an engine of its own. How much is free is what the tests say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from contract.backends import open_real
from contract.shop import ANN, Shop

from cartstore.embedded import Engine, disk
from cartstore.embedded.disk import DiskGuard, mark_of
from cartstore.errors import StoreFull
from cartstore.settings import Settings

MIB = 1024 * 1024
RESERVE_MB = 100


class Free:
    """What a look finds."""

    def __init__(self) -> None:
        self.mb = 10_000

    def __call__(self, _: Path) -> int:
        return self.mb * MIB


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    found = Free()
    monkeypatch.setattr(disk, "free_bytes", found)
    return found


@pytest.fixture
async def new_guard(own: Engine, tmp_path: Path) -> AsyncIterator[Callable[..., DiskGuard]]:
    made: list[DiskGuard] = []

    def make(**options: Any) -> DiskGuard:
        settings = Settings(redis_url=own.url(), disk_reserve_mb=RESERVE_MB)
        made.append(DiskGuard(settings, tmp_path, [own], **options))
        return made[-1]

    yield make
    for guard in made:
        await guard.aclose()


@pytest.fixture
async def shop(own: Engine) -> AsyncIterator[Shop]:
    async with open_real(own.url()) as shop:
        yield shop


@pytest.mark.parametrize(
    ("free", "before", "mark"),
    [
        (80, "open", "open"),
        (79, "open", "low"),
        (89, "low", "low"),
        (90, "low", "open"),
        (20, "low", "low"),
        (19, "open", "out"),
        (29, "out", "out"),
        (30, "out", "low"),
        (90, "out", "open"),
    ],
)
def test_mark_is_taken_back_only_above_its_bound(free: int, before: Any, mark: str) -> None:
    assert mark_of(free, 80, before) == mark


def test_nothing_is_marked_without_a_reserve() -> None:
    assert mark_of(0, 0, "out") == "open"


async def test_mark_and_the_engine_s_bound_follow_free_space(
    shop: Shop, free: Free, new_guard: Callable[..., DiskGuard], admin: Any
) -> None:
    said: list[str] = []
    guard = new_guard(report=said.append)
    await shop.sell("a", 5)
    bound = admin.config_get("maxmemory")["maxmemory"]
    seen = []
    for megabytes in (RESERVE_MB, RESERVE_MB - 1, RESERVE_MB // 4 - 1, RESERVE_MB * 2):
        free.mb = megabytes
        await guard.look()
        seen.append(
            (admin.hget("{main:0}:gate", "status"), admin.config_get("maxmemory")["maxmemory"] == bound)
        )

    assert seen == [("open", True), ("low", True), ("out", False), ("open", True)]
    assert [text.split(":")[0].rpartition(" ")[2] for text in said] == ["(100)", "(100)", "MB)"]
    assert (await shop.add(ANN, "a", 1)).line is not None


async def test_an_engine_that_starts_on_a_full_disk_takes_no_writes(
    shop: Shop, free: Free, new_guard: Callable[..., DiskGuard], own: Engine, admin: Any
) -> None:
    free.mb = 1
    await new_guard().look()
    own.kill()

    own.start()

    assert admin.config_get("maxmemory")["maxmemory"] == "1"


async def test_an_engine_takes_no_writes_when_the_disk_has_filled_up_since_the_last_look(
    shop: Shop, free: Free, new_guard: Callable[..., DiskGuard], own: Engine, admin: Any
) -> None:
    await shop.sell("a", 5)
    await new_guard().look()
    free.mb = 1
    own.kill()

    own.start()

    # Were it to take writes, its first call would fence the gate, and nobody would be told of the disk.
    assert admin.config_get("maxmemory")["maxmemory"] == "1"


async def test_mark_that_a_dead_guard_left_is_taken_back_by_the_next(
    shop: Shop, free: Free, new_guard: Callable[..., DiskGuard], own: Engine, admin: Any
) -> None:
    await shop.sell("a", 5)
    free.mb = 1
    await new_guard().look()
    with pytest.raises(StoreFull):
        await shop.add(ANN, "a", 1)
    free.mb = 10_000

    await new_guard().look()

    assert (await shop.add(ANN, "a", 1)).line is not None
    assert admin.config_get("maxmemory")["maxmemory"] == str(own.memory_bytes)


async def test_mark_is_set_again_when_the_gate_was_opened_without_it(
    shop: Shop, free: Free, new_guard: Callable[..., DiskGuard], admin: Any
) -> None:
    free.mb = RESERVE_MB - 1
    guard = new_guard()
    await guard.look()
    admin.hset("{main:0}:gate", "status", "open")

    await guard.look()

    assert admin.hget("{main:0}:gate", "status") == "low"


async def test_log_is_rewritten_only_while_there_is_space_for_a_second_one(
    free: Free, new_guard: Callable[..., DiskGuard], admin: Any
) -> None:
    assert admin.config_get("auto-aof-rewrite-percentage")["auto-aof-rewrite-percentage"] == "0"
    for number in range(2_000):
        admin.set("a", f"{number:01000}")
    used_mb = int(admin.info("memory")["used_memory"]) // MIB
    guard = new_guard(rewrite_bytes_min=MIB)

    def rewrites() -> int:
        return int(admin.info("commandstats").get("cmdstat_bgrewriteaof", {"calls": 0})["calls"])

    free.mb = RESERVE_MB + used_mb
    await guard.look()
    before = rewrites()
    free.mb = RESERVE_MB + used_mb + 2
    await guard.look()
    await guard.look()

    assert (before, rewrites()) == (0, 1)
