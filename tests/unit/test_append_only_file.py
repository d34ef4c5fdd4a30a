"""The append-only log's format: what is a command, where damage ends, and what is no manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartstore.embedded.append_only_file import Command, Damage, NotALog, encode, read_manifest, scan

SET = encode(b"SET", b"key", b"a value\r\n*1\r\n$4\r\n")
EXEC = encode(b"EXEC")


def told(data: bytes) -> list[tuple[bytes, ...] | tuple[int, int]]:
    """Arguments of each command, and where damage stands."""
    return [part.args if isinstance(part, Command) else (part.start, part.end) for part in scan(data)]


def test_scan_gives_every_command_when_the_file_is_whole() -> None:
    data = SET + b"#TS:1796086478\r\n" + EXEC

    found = list(scan(data))

    assert [part.args[0] for part in found if isinstance(part, Command)] == [b"SET", b"EXEC"]
    assert all(isinstance(part, Command) and encode(*part.args) in data for part in found)
    assert [(part.start, part.end) for part in found] == [(0, len(SET)), (len(data) - len(EXEC), len(data))]


@pytest.mark.parametrize(
    "bad",
    [
        b"\0" * 40,
        b"*1\r\n$4\r\nEXEC\0\0",  # the line end behind a string
        b"*1\r\n$4\r\n\0XEC\r\n",  # the name
        b"*1\r\n#4\r\nEXEC\r\n",
        b"*0\r\n",
        b"*x\r\n",
        b"*\r\n",
        b"#TS:\0\0\r\n",
        b"*2\r\n$4\r\nEXEC\r\n",  # one string too few
        b"*1\r\n$999999999\r\nEXEC\r\n",
    ],
)
def test_scan_goes_on_at_the_next_command_when_bytes_are_damaged(bad: bytes) -> None:
    data = EXEC + bad + SET

    found = list(scan(data))

    assert isinstance(found[1], Damage)
    assert (found[1].start, found[1].end) == (len(EXEC), len(EXEC) + len(bad))
    assert [part.args[0] for part in found if isinstance(part, Command)] == [b"EXEC", b"SET"]


@pytest.mark.parametrize("cut", range(1, len(EXEC)))
def test_scan_gives_no_command_when_its_end_is_cut_off(cut: int) -> None:
    data = SET + EXEC[:-cut]

    assert told(data) == [(b"SET", b"key", b"a value\r\n*1\r\n$4\r\n"), (len(SET), len(data))]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"file a.1.base.rdb seq 1 type b\n",
        b"file a.1.incr.aof seq 1 type x\n",
        b"file a.1.incr.aof seq one type i\n",
        b"file a.1.incr.aof seq 1\n",
        b"file a.1.incr.aof seq 1 type\n",
        b"file ../a.1.incr.aof seq 1 type i\n",
        b"\xff\xfe\n",
    ],
)
def test_read_manifest_refuses_when_it_is_not_plainly_one(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.manifest").write_bytes(text)

    with pytest.raises(NotALog):
        read_manifest(tmp_path)


def test_read_manifest_names_the_files_and_the_next_one(tmp_path: Path) -> None:
    lines = [
        "file a.3.base.rdb seq 3 type b",
        "file a.9.incr.aof seq 9 type i",
        "file a.8.incr.aof seq 8 type h",
    ]
    (tmp_path / "a.manifest").write_text("\n".join(lines))

    manifest = read_manifest(tmp_path)

    assert [file.name for file in manifest.increments] == ["a.9.incr.aof"]
    assert manifest.next_increment().line == "file a.10.incr.aof seq 10 type i"
