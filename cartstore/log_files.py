"""Owns how long log files may get: what is over a bound goes to `<name>.log.1`, in the place of what was
there.

A file is copied and emptied, not renamed: the programs that write into it (two of them are not ours) have
it open and know of no other one. What a program writes between the end of the copy and the emptying, some
microseconds, is lost. Every program here appends, so it goes on at the beginning of the emptied file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cartstore.embedded.disk import free_bytes


def shorten_logs(files: Iterable[Path], bytes_max: int) -> list[Path]:
    """Shorten every log that is longer than `bytes_max`; which ones were. Blocks while it copies."""
    return [file for file in files if _shorten(file, bytes_max)]


def _shorten(file: Path, bytes_max: int) -> bool:
    old = file.with_suffix(".log.1")
    try:
        size = file.stat().st_size
        if size <= bytes_max:
            return False
        old.unlink(missing_ok=True)
        # On a disk that is nearly full a copy would take the space that orders need.
        if free_bytes(file.parent) > 2 * size:
            _copy(file, old)
        os.truncate(file, 0)
    except FileNotFoundError:
        return False
    return True


def _copy(file: Path, to: Path) -> None:
    """Copy a file up to its end as it is at that moment, or leave none."""
    try:
        with file.open("rb") as source, os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as copy:
            done = 0
            while (left := os.fstat(source.fileno()).st_size - done) > 0:
                done += os.sendfile(copy.fileno(), source.fileno(), done, left)
    except OSError:
        with suppress(OSError):
            to.unlink()
