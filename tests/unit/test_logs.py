"""Logs are bounded: in what a flood writes, and in how long a file gets."""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from cartstore import log_files, logs
from cartstore.log_files import shorten_logs
from cartstore.logs import RECORDS_MAX, WINDOW_SECONDS, BoundedHandler, JsonFormatter, level_of

MIB = 1024 * 1024


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logs, "time", clock)
    return clock


@pytest.fixture
def flooded(clock: Clock) -> Any:
    """A logger, and what it has written."""
    stream = io.StringIO()
    handler = BoundedHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("shop")
    logger.addHandler(handler)
    return logger, handler, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_flood_is_written_at_its_beginning_and_counted_when_its_window_is_over(
    flooded: Any, clock: Clock
) -> None:
    logger, _, written = flooded
    for number in range(500):
        logger.error("drift: %s", number)
        if number < 3:
            logger.warning("rare")
    during = len(written())

    clock.now += WINDOW_SECONDS
    logger.info("another")

    assert during == RECORDS_MAX + 3
    more, another = written()[during:]
    assert (more["level"], more["what"], more["count"]) == ("error", "drift: %s", 500 - RECORDS_MAX)
    assert another["message"] == "another"
    logger.error("drift: %s", "again")
    assert written()[-1]["message"] == "drift: again"


def test_flood_is_counted_when_the_process_ends_in_it(flooded: Any) -> None:
    logger, handler, written = flooded
    for _ in range(RECORDS_MAX + 7):
        logger.error("down")

    handler.close()

    assert written()[-1]["count"] == 7


def test_kinds_of_lines_are_bounded_when_each_is_another(flooded: Any) -> None:
    logger, handler, written = flooded
    for number in range(logs.KINDS_MAX + 500):
        logger.error(f"made up {number}")

    assert len(handler._kinds) == logs.KINDS_MAX + 1
    assert len(written()) == logs.KINDS_MAX + RECORDS_MAX


def test_ready_lines_are_never_held_back(flooded: Any) -> None:
    logger, _, written = flooded
    for _ in range(3 * RECORDS_MAX):
        logger.info("{}", extra={logs.FORMATTED: True})

    assert len(written()) == 3 * RECORDS_MAX


def test_level_is_named_as_the_setting_does() -> None:
    assert [level_of(name) for name in ("debug", "info", "warning", "error")] == [10, 20, 30, 40]


def test_log_goes_on_at_its_beginning_when_it_was_put_aside(tmp_path: Path) -> None:
    log, old = tmp_path / "worker.log", tmp_path / "worker.log.1"
    old.write_text("of last time\n")
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100 + b"\n")
        kept = shorten_logs([log, tmp_path / "absent.log"], 200)
        writer.write(b"y" * 100 + b"\n")
        shortened = shorten_logs([log], 200)
        writer.write(b"z\n")

    assert (kept, shortened) == ([], [log])
    assert old.read_bytes() == b"x" * 100 + b"\n" + b"y" * 100 + b"\n"
    assert log.read_bytes() == b"z\n"
    assert old.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("is_seen", [True, False], ids=["before", "meanwhile"])
def test_log_is_emptied_and_not_kept_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    log, old = tmp_path / "api.log", tmp_path / "api.log.1"
    log.write_text("x" * 300)
    old.write_text("of last time\n")

    def no_space(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    if is_seen:
        monkeypatch.setattr(log_files, "free_bytes", lambda _: 100)
    else:
        monkeypatch.setattr(os, "sendfile", no_space)

    assert shorten_logs([log], 200) == [log]

    assert log.read_bytes() == b""
    assert not old.exists()
