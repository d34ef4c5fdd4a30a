"""Owns how much memory the private engine may use: a share of what this process's machine or container
has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ENGINE_SHARE_PERCENT: Final = 40
"""While the engine rewrites its log it is forked, and every page that changes meanwhile is there twice. The
rest is for that, for the database and for the other processes."""

_CGROUPS: Final = Path("/sys/fs/cgroup")


def engine_memory_bytes(memory_mb: int = 0) -> int:
    """The engine's `maxmemory`: as set, in MiB, or by default a share of the memory that there is."""
    return memory_mb * 1024 * 1024 if memory_mb else memory_bytes() * ENGINE_SHARE_PERCENT // 100


def memory_bytes(cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """The smaller of the machine's memory and the limits of the control groups that this process is in."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(cgroups, own)])


def _limits(cgroups: Path, own: Path) -> Iterator[int]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # A limit of any group above holds, too. In a container the path may be the host's and absent here:
        # what is at the root of the mount is the container's own group then.
        group = root / path.strip("/")
        for folder in [group, *group.parents]:
            if folder == root or root in folder.parents:
                yield from _read_limit(folder / name)


def _read_limit(file: Path) -> Iterator[int]:
    """Nothing where there is no limit; version 1 has a number near 2^63 for that, which never is the
    smaller."""
    try:
        text = file.read_text().strip()
    except OSError:
        return
    if text.isdecimal():
        yield int(text)
