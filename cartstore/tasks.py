"""Owns how a background task is ended for certain."""

from __future__ import annotations

import asyncio
from typing import Any, Final

REPEAT_SECONDS: Final = 0.05


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended; what it raised stays in it.

    One cancellation is not enough. Up to Python 3.11 `asyncio.wait_for` drops one that comes in the instant
    when what it waits for is done, and redis-py sends every command through it: the task then goes on as if
    nobody had asked.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=REPEAT_SECONDS)
