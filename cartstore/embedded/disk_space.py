"""How much space the servers of a data dir need on its disk before they are started. Owns the figures and the
texts that name them; the watch over servers that run is in disk.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cartstore.embedded import disk
from cartstore.embedded.disk import LOOK_SECONDS, MIB
from cartstore.errors import StoreUnavailable
from cartstore.settings import Settings

NEW_DATABASE_BYTES: Final = 50 * MIB
"""What a new PostgreSQL cluster with our tables takes; 47 MB were measured."""

NEW_ENGINE_BYTES: Final = 2 * MIB

START_BYTES: Final = 24 * MIB
"""What a start of existing servers takes at most: PostgreSQL makes a log segment (16 MiB) ahead."""


def floor_bytes(settings: Settings) -> int:
    """Free space below which nothing is written, as DiskGuard has it."""
    return settings.disk_reserve_mb * MIB // 4


def is_new(settings: Settings, data_dir: Path) -> bool:
    """Whether a start makes servers' files there that it does not find."""
    return not settings.database_url and not (data_dir / "postgres" / "PG_VERSION").exists()


def check_space_for_new(settings: Settings, data_dir: Path) -> None:
    """Raise StoreUnavailable when a new shop does not fit on the disk. Makes nothing."""
    has_new_engine = not settings.redis_url and not (data_dir / "engine").exists()
    files = NEW_DATABASE_BYTES * is_new(settings, data_dir) + NEW_ENGINE_BYTES * has_new_engine
    if not files:
        return
    free, floor = disk.free_bytes(_existing(data_dir)), floor_bytes(settings)
    if free < files + floor:
        raise StoreUnavailable(
            f"The disk of {data_dir} has {free // MIB} MB left; a new shop needs "
            f"{(files + floor) // MIB} MB: {files // MIB} for its files, and a quarter of "
            f"CARTSTORE_DISK_RESERVE_MB ({settings.disk_reserve_mb}), below which nothing is written. Free "
            "space, or lower the setting."
        )


class DiskSpace:
    """Waits for the space that existing servers of a data dir need. `say` is told once per wait, in one line,
    what is short."""

    def __init__(self, settings: Settings, folder: Path, say: Callable[[str], object]) -> None:
        self._settings = settings
        self._folder = folder
        self._say = say
        self._has_failed = False

    async def until_enough(self) -> None:
        """Wait until a start is worth a try: until there is enough for certain when one has failed."""
        if self._has_servers():
            await self._wait(self._shortage)
        self._has_failed = False

    async def until_enough_for_database(self) -> None:
        """Wait until a database that could not be started again while its shop runs is worth another try. It
        runs below the floor as well, where it takes no writes and answers product pages."""
        await self._wait(self._database_shortage)

    def was_short(self) -> bool:
        """Whether a start that failed may have failed for want of space."""
        self._has_failed = True
        return self._has_servers() and self._shortage() is not None

    def _has_servers(self) -> bool:
        return not (self._settings.redis_url and self._settings.database_url)

    async def _wait(self, shortage: Callable[[], str | None]) -> None:
        short = shortage()
        if short is None:
            return
        self._say(short)
        self._has_failed = True
        while shortage() is not None:  # noqa: ASYNC110 (the kernel sets no event)
            await asyncio.sleep(LOOK_SECONDS)

    def _shortage(self) -> str | None:
        free, floor = disk.free_bytes(self._folder), floor_bytes(self._settings)
        needed = floor + START_BYTES
        if free >= (needed if self._has_failed else floor):
            return None
        return (
            f"The disk of {self._folder} has {free // MIB} MB left; a start needs {needed // MIB} MB, a "
            f"quarter of CARTSTORE_DISK_RESERVE_MB ({self._settings.disk_reserve_mb}) included. Everything "
            "is started when there is space."
        )

    def _database_shortage(self) -> str | None:
        free = disk.free_bytes(self._folder)
        if free >= START_BYTES:
            return None
        return (
            f"The disk of {self._folder} has {free // MIB} MB left; the database needs {START_BYTES // MIB} "
            "MB to start. It is started when there is space."
        )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
