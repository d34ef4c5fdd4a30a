"""Reads the engine's append-only log: its manifest, and the commands of an incremental file.

The log is a folder (`appendonlydir`). The manifest names a base file, a snapshot of the data set, and the
incremental files with the commands that came after it, oldest first. A command is an array of bulk strings:
`*<count>\\r\\n`, then `$<length>\\r\\n<bytes>\\r\\n` for each. What a script wrote stands between MULTI and
EXEC. Lines that begin with `#` are annotations.

Owns the format, and finding the next command behind damaged bytes. Changes nothing and decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from typing import Final

import msgspec

MANIFEST_SUFFIX: Final = ".manifest"

ARGUMENTS_MAX: Final = 1_048_576
"""Of one command, as the engine itself takes them."""

_NUMBER_BYTES_MAX: Final = 22
"""Of a count or a length with its mark and line end: nothing else is looked for a line end any further."""

_COMMAND_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z.|_]{0,63}\Z")
_ANNOTATION: Final = re.compile(rb"#[ -~]{0,1024}\r\n")
_BEGIN: Final = re.compile(rb"\*[1-9][0-9]{0,6}\r\n\$[1-9][0-9]?\r\n[A-Za-z]")
_INCREMENT: Final = re.compile(r"(?P<prefix>.+)\.(?P<seq>[0-9]+)\.incr\.aof\Z")


class NotALog(Exception):
    """The folder or its manifest is not what an engine writes."""


class LogFile(msgspec.Struct, frozen=True):
    """One line of the manifest."""

    name: str
    seq: int
    type: str
    """`b` base, `i` incremental, `h` history: not used any more."""
    line: str


class Manifest(msgspec.Struct, frozen=True):
    """The files of a log, in their order."""

    path: Path
    files: tuple[LogFile, ...]

    @property
    def increments(self) -> tuple[LogFile, ...]:
        return tuple(file for file in self.files if file.type == "i")

    def next_increment(self) -> LogFile:
        """An incremental file that would follow the last one."""
        last = self.increments[-1]
        match = _INCREMENT.match(last.name)
        if match is None:
            raise NotALog(f"{last.name} is not the name of an incremental file.")
        seq = max(file.seq for file in self.increments) + 1
        name = f"{match['prefix']}.{seq}.incr.aof"
        return LogFile(name, seq, "i", f"file {name} seq {seq} type i")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a log's folder. Raises NotALog for anything that is not plainly one, OSError."""
    found = sorted(folder.glob(f"*{MANIFEST_SUFFIX}"))
    if len(found) != 1:
        raise NotALog(f"{folder} holds {len(found)} manifests.")
    files = []
    try:
        lines = found[0].read_text("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise NotALog(f"{found[0].name} is not text.") from error
    for line in lines:
        if not line or line.startswith("#"):
            continue
        words = line.split()
        fields = dict(zip(words[::2], words[1::2], strict=False))
        if len(words) % 2 or not {"file", "seq", "type"} <= fields.keys() or not fields["seq"].isdecimal():
            raise NotALog(f"{found[0].name} has a line that names no file.")
        if "/" in fields["file"] or fields["type"] not in ("b", "i", "h"):
            raise NotALog(f"{found[0].name} names a file of an unknown kind.")
        files.append(LogFile(fields["file"], int(fields["seq"]), fields["type"], line))
    if not any(file.type == "i" for file in files):
        raise NotALog(f"{found[0].name} names no incremental file.")
    return Manifest(found[0], tuple(files))


class Command(msgspec.Struct, frozen=True):
    """One command, and where its bytes stand."""

    start: int
    end: int
    args: tuple[bytes, ...]

    @property
    def name(self) -> bytes:
        return self.args[0].upper()


class Damage(msgspec.Struct, frozen=True):
    """Bytes that are no command, up to the next one or to the end of the file."""

    start: int
    end: int


def scan(data: bytes | mmap, start: int = 0) -> Iterator[Command | Damage]:
    """Everything that an incremental file holds, from a place where a command begins."""
    place, size = start, len(data)
    while place < size:
        if data[place : place + 1] == b"#":
            annotation = _ANNOTATION.match(data, place)
            if annotation is not None:
                place = annotation.end()
                continue
        command = _command_at(data, place)
        if command is None:
            command = _next_command(data, place + 1)
            yield Damage(place, command.start if command else size)
        if command is None:
            return
        yield command
        place = command.end


def _next_command(data: bytes | mmap, start: int) -> Command | None:
    """The first whole command from a place on. What buyers write cannot look like one: it stands in the log
    as JSON, which has no raw line end."""
    for begin in _BEGIN.finditer(data, start):
        command = _command_at(data, begin.start())
        if command is not None:
            return command
    return None


def _command_at(data: bytes | mmap, start: int) -> Command | None:
    read = _number_at(data, start, b"*")
    if read is None or not 1 <= read[0] <= ARGUMENTS_MAX:
        return None
    count, place = read
    args = []
    for _ in range(count):
        read = _number_at(data, place, b"$")
        if read is None:
            return None
        length, begin = read
        place = begin + length + 2
        if data[place - 2 : place] != b"\r\n":
            return None
        args.append(bytes(data[begin : begin + length]))
    if not _COMMAND_NAME.match(args[0]):
        return None
    return Command(start, place, tuple(args))


def _number_at(data: bytes | mmap, start: int, mark: bytes) -> tuple[int, int] | None:
    """A count or a length, and where the line behind it begins."""
    if data[start : start + 1] != mark:
        return None
    end = data.find(b"\r\n", start, start + _NUMBER_BYTES_MAX)
    digits = data[start + 1 : end]
    # isdigit alone takes an empty text for none, and bytes have no other digits than these ten.
    return (int(digits), end + 2) if end > 0 and digits.isdigit() else None


def encode(*args: bytes) -> bytes:
    """A command as the log has it."""
    parts = [b"*%d\r\n" % len(args)]
    parts += [b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args]
    return b"".join(parts)
