"""A file system that is small enough to be filled: a tmpfs, which only root can mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from acceptance.running import private_folder

MIB = 1024 * 1024


class Disk:
    """A small file system, and a file that takes space on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def free_mb(self) -> float:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize / MIB

    def leave_mb(self, megabytes: float) -> None:
        """Fill it until so much is left."""
        size = self._ballast.stat().st_size if self._ballast.exists() else 0
        size += int((self.free_mb() - megabytes) * MIB)
        with self._ballast.open("ab") as file:
            file.truncate(max(0, size))
            os.posix_fallocate(file.fileno(), 0, max(1, size))

    def fill(self) -> None:
        """Until nothing is left."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(64 * 1024))
            except OSError:
                return

    def clear(self) -> None:
        """Remove the file; nothing happens when there is none."""
        self._ballast.unlink(missing_ok=True)


def can_mount() -> bool:
    """Whether this process may mount a file system, by trying it."""
    try:
        with small_disk(1):
            return True
    except AssertionError:
        return False


@contextmanager
def small_disk(size_mb: int = 320) -> Iterator[Disk]:
    """Mount one for the life of the context. AssertionError where that is not allowed."""
    with private_folder() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=700", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        assert mounted.returncode == 0, f"a file system has to be mounted: {mounted.stderr}"
        try:
            yield Disk(folder)
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
