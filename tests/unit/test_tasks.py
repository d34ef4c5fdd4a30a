"""Background tasks end, also when something on their way drops a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from cartstore.archive.acknowledgement import Acknowledgement
from cartstore.model import Position
from cartstore.tasks import end

PATIENCE_SECONDS = 30.0
"""Only there to end a test that hangs."""


class Deaf:
    """Announcements through a driver that drops the first cancellations."""

    def __init__(self, dropped: int) -> None:
        self.left = dropped
        self.is_waiting = asyncio.Event()

    async def positions(self) -> AsyncIterator[Position]:
        while True:
            await self.wait()
            yield Position(0, 0)

    async def wait(self) -> None:
        while self.left:
            with suppress(asyncio.CancelledError):
                self.is_waiting.set()
                await asyncio.Event().wait()
            self.left -= 1
        self.is_waiting.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("dropped", [0, 1, 3])
async def test_end_returns_once_the_task_has_ended(dropped: int) -> None:
    deaf = Deaf(dropped)
    task = asyncio.create_task(deaf.wait())
    await deaf.is_waiting.wait()

    async with asyncio.timeout(PATIENCE_SECONDS):
        await end(task)

    assert task.cancelled()
    assert deaf.left == 0


async def test_end_keeps_what_the_task_raised() -> None:
    async def fail() -> None:
        raise ValueError

    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    await end(task)

    assert isinstance(task.exception(), ValueError)


async def test_listening_ends_when_a_cancellation_is_dropped() -> None:
    record: Any = None
    deaf = Deaf(1)
    acknowledgement = Acknowledgement(
        "archived", record, timeout_ms=200, ring=lambda: None, announcements=deaf
    )

    async with asyncio.timeout(PATIENCE_SECONDS):
        async with acknowledgement.listening():
            await deaf.is_waiting.wait()

    assert deaf.left == 0
