"""How much memory there is: the machine's, or less where a control group says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cartstore.embedded.memory import engine_memory_bytes, memory_bytes

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "found"),
    [
        ("0::/shop/up\n", {"shop/memory.max": f"{64 * MIB}\n", "shop/up/memory.max": "max\n"}, 64 * MIB),
        ("0::/shop\n", {"shop/memory.max": f"{64 * MIB}\n", "memory.max": f"{32 * MIB}\n"}, 32 * MIB),
        # In a container: the host's path, and the container's group at the root of the mount.
        ("0::/docker/ab12\n", {"memory.max": f"{48 * MIB}\n"}, 48 * MIB),
        (
            "5:cpu,cpuacct:/x\n4:memory:/docker/ab12\n",
            {"memory/memory.limit_in_bytes": f"{16 * MIB}\n", "memory.max": "1\n"},
            16 * MIB,
        ),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE),
        ("0::/\n", {}, MACHINE),
        ("0::/../outside\n", {"memory.max": f"{8 * MIB}\n"}, 8 * MIB),
    ],
    ids=["version 2", "group above", "container", "version 1", "no limit", "no file", "outside"],
)
def test_memory_is_the_smallest_limit(tmp_path: Path, own: str, files: dict[str, str], found: int) -> None:
    write(tmp_path / "own", own)
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)

    assert memory_bytes(tmp_path / "cgroup", tmp_path / "own") == found


def test_memory_is_the_machine_s_without_control_groups(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path, tmp_path / "absent") == MACHINE


def test_engine_gets_its_share_or_what_was_set() -> None:
    assert engine_memory_bytes() == memory_bytes() * 40 // 100
    assert engine_memory_bytes(512) == 512 * MIB
