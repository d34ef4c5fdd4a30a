"""A child of `up` that stands still, with a real process, a real engine and real beats."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cartstore import watching
from cartstore.embedded.parts import child_environment
from cartstore.embedded.process import Process
from cartstore.settings import Settings
from cartstore.watching import Watch

PATIENCE_SECONDS = 60.0
FAST_SECONDS = 0.05
PROGRAM = f"""
import asyncio
from cartstore.redis import heart
from cartstore.settings import load_settings

async def live():
    async with heart.beating(load_settings(), "worker"):
        await asyncio.Event().wait()

heart.BEAT_SECONDS = {FAST_SECONDS}
asyncio.run(live())
"""


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 (another process brings it about)
            await asyncio.sleep(0.01)


async def test_child_that_is_stopped_is_killed_and_its_successor_is_let_alone(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "BEAT_SECONDS", FAST_SECONDS)
    told: list[str] = []
    settings = Settings(redis_url=redis_url)
    watch = Watch(told.append, hung_seconds=2.0)
    environment = watch.environment({**child_environment(settings), "PYTHONPATH": os.pathsep.join(sys.path)})
    child = Process("The worker", tmp_path / "log", [sys.executable, "-c", PROGRAM], environment)
    watch.add("worker", child)
    (watched,) = watch._children
    try:
        async with watch.watching(settings):
            child.spawn()
            await until(lambda: watched.count is not None)
            first = child.pid

            child.send(signal.SIGSTOP)
            await until(lambda: child.poll() is not None)
            assert child.poll() == -signal.SIGKILL
            assert [line for line in told if f"(process {first})" in line and "It is killed" in line]

            child.spawn()
            await until(lambda: watched.pid == child.pid and (watched.count or 0) > 5)
        assert child.pid is not None
        assert len(told) == 1
    finally:
        child.kill()


async def test_child_that_stands_still_before_its_first_beat_is_killed(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "BEAT_SECONDS", FAST_SECONDS)
    told: list[str] = []
    settings = Settings(redis_url=redis_url)
    watch = Watch(told.append, hung_seconds=0.5)
    child = Process("An API process", tmp_path / "log", ["/bin/sleep", "600"])
    watch.add("api", child)
    try:
        async with watch.watching(settings):
            child.spawn()
            first = child.pid

            await until(lambda: child.poll() is not None)

        assert child.poll() == -signal.SIGKILL
        assert f"An API process (process {first}) has given no sign of life" in told[0]
    finally:
        child.kill()


def test_processor_time_is_that_of_the_process() -> None:
    before = watching._cpu_seconds_of(os.getpid())
    while watching._cpu_seconds_of(os.getpid()) == before:
        sum(range(10_000))

    assert 0 < before < watching._cpu_seconds_of(os.getpid())
    assert watching._cpu_seconds_of(2**30) == 0.0
