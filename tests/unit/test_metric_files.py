"""Metric files have all of their space from the start, and a full disk costs only what others see."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

from cartstore.metric_files import FILE_BYTES, AllocatedDict, allocate_metric_files


def allocated_bytes(file: Path) -> int:
    return file.stat().st_blocks * 512


def fill(counts: AllocatedDict, number: int) -> None:
    for n in range(number):
        counts.write_value(f"{n:0100}", float(n), 0.0)  # type: ignore[no-untyped-call]


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_file_has_all_of_its_space_when_it_is_made_and_when_it_grows(tmp_path: Path) -> None:
    file = tmp_path / "counter_1.db"
    counts = AllocatedDict(str(file))
    made = file.stat().st_size, allocated_bytes(file)

    fill(counts, 1_000)

    assert made[0] == FILE_BYTES
    assert made[1] >= FILE_BYTES
    assert file.stat().st_size > 2 * FILE_BYTES - 1
    assert allocated_bytes(file) >= file.stat().st_size
    read = {key: value for key, value, *_ in MmapedDict.read_all_values_from_file(file)}  # type: ignore[no-untyped-call]
    assert read == {f"{n:0100}": float(n) for n in range(1_000)}
    counts.close()  # type: ignore[no-untyped-call]


def test_values_go_on_in_memory_when_no_file_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    file = tmp_path / "counter_1.db"

    counts = AllocatedDict(str(file))
    fill(counts, 1_000)

    assert not file.exists()
    assert counts.read_value(f"{999:0100}") == (999.0, 0.0)  # type: ignore[no-untyped-call]
    assert "No space left on device" in caplog.text
    counts.close()  # type: ignore[no-untyped-call]


def test_values_go_on_in_memory_when_the_file_cannot_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "counter_1.db"
    counts = AllocatedDict(str(file))
    fill(counts, 10)
    monkeypatch.setattr(os, "posix_fallocate", no_space)

    fill(counts, 1_000)

    assert file.stat().st_size == FILE_BYTES
    assert counts.read_value(f"{3:0100}") == (3.0, 0.0)  # type: ignore[no-untyped-call]
    assert counts.read_value(f"{999:0100}") == (999.0, 0.0)  # type: ignore[no-untyped-call]
    read = [key for key, *_ in MmapedDict.read_all_values_from_file(file)]  # type: ignore[no-untyped-call]
    assert read[:10] == [f"{n:0100}" for n in range(10)]
    counts.close()  # type: ignore[no-untyped-call]


def test_client_library_uses_them_when_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "MmapedDict", MmapedDict)
    allocate_metric_files()
    value = values.MultiProcessValue(lambda: 7)("counter", "made", "made", (), (), "")  # type: ignore[no-untyped-call]

    value.inc(2)

    assert allocated_bytes(tmp_path / "counter_7.db") >= FILE_BYTES
    value.close_all_files()
