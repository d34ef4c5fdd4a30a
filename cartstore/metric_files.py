"""Owns that a full disk never ends a process by way of its metrics.

With PROMETHEUS_MULTIPROC_DIR set the client library keeps values in mapped files. It makes them sparse: the
first write into a page that the disk has no space for is then a SIGBUS. Here files get all of their space
when they are made or grow. Where there is none the values go on in memory: this process's own counts are
right, and other processes do not see what it counts from then on."""

from __future__ import annotations

import logging
import mmap
import os
from contextlib import suppress
from typing import Any, Final

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

FILE_BYTES: Final = 64 * 1024
"""Of a new file; one that is full is doubled, as the library does it."""

_ENTRY_BYTES: Final = 32
"""What an entry takes beside its key, at most."""

_HEADER_BYTES: Final = 8

_log = logging.getLogger("cartstore.metrics")


def allocate_metric_files() -> None:
    """Make the client library use such files. Call it before the first metric is made; may be repeated."""
    values.MmapedDict = AllocatedDict  # type: ignore[attr-defined]


class AllocatedDict(MmapedDict):
    """The library's dictionary of values in a file, whose space is allocated."""

    _f: Any
    _m: Any
    _used: int
    _capacity: int

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        try:
            if not read_mode:
                _allocate(filename)
        except OSError as error:
            self._fname = filename
            self._f = None
            self._positions: dict[str, int] = {}
            self._used, self._capacity = _HEADER_BYTES, FILE_BYTES
            self._m = mmap.mmap(-1, FILE_BYTES)
            self._m[:4] = _HEADER_BYTES.to_bytes(4, "little")
            _complain(error)
            return
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        while self._used + len(key.encode()) + _ENTRY_BYTES > self._capacity:
            self._grow()
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self) -> None:
        capacity = 2 * self._capacity
        grown: Any = None
        if self._f is not None:
            try:
                os.posix_fallocate(self._f.fileno(), 0, capacity)
                grown = mmap.mmap(self._f.fileno(), capacity)
            except OSError as error:
                # The file stays as it is, for the others to read.
                self._f.close()
                self._f = None
                _complain(error)
        if grown is None:
            grown = mmap.mmap(-1, capacity)
            grown[: self._used] = self._m[: self._used]
        self._m, self._capacity = grown, capacity


def _allocate(filename: str) -> None:
    """Give a file its space, and make it if it is not there. Leaves none without space. Raises OSError."""
    descriptor = os.open(filename, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, max(FILE_BYTES, os.fstat(descriptor).st_size))
    except OSError:
        with suppress(OSError):
            if os.fstat(descriptor).st_size == 0:
                os.unlink(filename)
        raise
    finally:
        os.close(descriptor)


def _complain(error: OSError) -> None:
    _log.warning("metrics of this process are not seen by others from now on: %s", error.strerror)
