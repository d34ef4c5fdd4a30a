"""Salvages a damaged append-only log, so that no event that can still be read is lost. Owns what is kept,
what is cut off, and the report.

The engine gets a log that ends where the damage begins, followed by the outbox entries that stand behind it.
An entry that cannot be read, but is named by the one after it or was counted by the gate, gets a placeholder
of type `unreadable` under its position: the record refuses that one, puts it into `rejected_events`, and goes
on with what follows. The gate is shut as `damaged`, so recovery brings the whole stream into PostgreSQL and
rebuilds the engine from it: counters, holds and carts of a log with a hole prove nothing.

The manifest is replaced last, by one rename. A death before that leaves the damaged log as it was, and the
next start begins anew; a death after it leaves a whole log.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from cartstore.datadir import write_file
from cartstore.embedded.append_only_file import (
    Command,
    Damage,
    LogFile,
    Manifest,
    NotALog,
    encode,
    read_manifest,
    scan,
)

LOG_FOLDER: Final = "appendonlydir"
KEPT_PREFIX: Final = "damaged-"
REPORT_FILE: Final = "report.json"

DAMAGED: Final = "damaged"
"""Identity that the gate gets: of no engine, and recovery answers it with a rebuild."""

PLACEHOLDERS_MAX: Final = 10_000
"""Of entries before one position that cannot be read. More are counted in the report's gap only."""

_BAD_FORMAT: Final = re.compile(r"Bad file format reading the append only file ([^\s:]+):")
_BASE_BEGUN: Final = "Reading RDB base file on AOF loading"
_BASE_READ: Final = "DB loaded from base file"
_MISSING: Final = re.compile(r"Unable to obtain the AOF file (\S+) length")
_OUTBOX: Final = re.compile(rb"\{[a-z0-9][a-z0-9-]*:[0-9]+\}:outbox\Z")
_GATE: Final = re.compile(rb"\{[a-z0-9][a-z0-9-]*:[0-9]+\}:gate\Z")
_ENTRY_ID: Final = re.compile(rb"([0-9]{1,15})-([0-9]{1,15})\Z")
_PREVIOUS: Final = re.compile(rb"([0-9]{1,15})-([0-9]{1,15}) (.*)\Z", re.DOTALL)

_BECAUSE: Final = b"The log of the engine was damaged."
_COPY_BYTES: Final = 1 << 20

_BODY: Final = b'{"damaged": "The bytes of this event in the log of the engine could not be read."}'

# Runs once, while the engine reads its log, and sees the stream as of there: only the engine knows which
# entries the base file holds. Appends a placeholder for each position after the stream's last entry, up to
# the one given. KEYS[1] outbox; ARGV: epoch, seq, nonce ('' if nothing names it), body, placeholders at most.
_BRIDGE: Final = b"""
local seq, limit = tonumber(ARGV[2]), tonumber(ARGV[5])
local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local place, name = seq - 1, nil
if top then
  place = tonumber(string.match(top[1], '-(%d+)$'))
  local nonce = ''
  for index = 1, #top[2], 2 do
    if top[2][index] == 'nonce' then nonce = top[2][index + 1] end
  end
  name = top[1] .. ' ' .. nonce
end
if seq - place > limit then
  place = seq - limit
end
while place < seq do
  place = place + 1
  local id = ARGV[1] .. '-' .. string.format('%.0f', place)
  local nonce = place == seq and ARGV[3] or ''
  local fields = { 'nonce', nonce, 'type', 'unreadable', 'at', '0', 'subject', '', 'cart_version', '0' }
  if name then
    fields[#fields + 1] = 'previous'
    fields[#fields + 1] = name
  end
  fields[#fields + 1] = 'body'
  fields[#fields + 1] = ARGV[4]
  redis.call('XADD', KEYS[1], id, unpack(fields))
  name = id .. ' ' .. nonce
end
"""

_SHUT_GATES: Final = b"""
for _, gate in ipairs(redis.call('KEYS', '{*:*}:gate')) do
  local field = redis.call('HEXISTS', gate, 'state') == 1 and 'state' or 'status'
  redis.call('HSET', gate, field, 'fenced', 'identity', ARGV[1], 'fenced_because', ARGV[2])
  redis.call('HINCRBY', gate, 'salvages', 1)
end
"""


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one file that are no command."""

    file: str
    start: int
    end: int


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was written and cannot be read: every event after `after` up to `through`."""

    outbox: str
    after: str | None
    """Position of the last event before; None: it stands in the base file, and perhaps nothing is missing."""
    through: str
    named_by: str
    """What tells of it: the event that follows, or the gate."""


class SalvageReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found and done; `report.json` beside the damaged log."""

    at: str
    damaged_file: str
    damaged_at: int
    """Offset of the first byte that is no command."""
    kept_bytes: int
    """Of the damaged file, up to the last whole transaction before that."""
    gaps: tuple[Gap, ...]
    events_carried: int
    """Events that were read behind the damage and are in the engine's outbox again."""
    events_missing: tuple[Missing, ...]
    kept_in: str
    """The folder with the log as it was found."""

    @property
    def summary(self) -> str:
        missing = "events are missing" if self.events_missing else "no event is missing"
        return (
            f"the engine's log was damaged in {self.damaged_file} at byte {self.damaged_at}; "
            f"{self.events_carried} events were read behind it, {missing}; "
            f"{REPORT_FILE} and the log as it was found are kept in {self.kept_in}"
        )


def damaged_file_of(log: str) -> str | None:
    """The file that the engine itself calls damaged in what it logged. None for everything else that keeps it
    from starting: another version, a missing file, an I/O error are no damage."""
    found = _BAD_FORMAT.findall(log)
    return found[-1] if found else None


def damage_beyond_salvage(log: str) -> str | None:
    """What the engine's own log tells of damage that nothing here mends, as a clause for people."""
    damaged = damaged_file_of(log)
    if damaged is not None:
        return f"the file {damaged} of its log is damaged"
    missing = _MISSING.search(log)
    if missing is not None:
        return f"the manifest of its log names {missing[1]}, which is missing"
    if "FATAL AOF MANIFEST FILE ERROR" in log:
        return "the manifest of its log is damaged"
    if _BASE_BEGUN in log and _BASE_READ not in log:
        return "the base file of its log is damaged"
    return None


def salvage(folder: Path, damaged: str) -> SalvageReport | None:
    """Put the log of the engine on `folder` right, whose incremental file `damaged` the engine refused.

    None, and nothing is changed: the file is the base file, or nothing is wrong with it that this knows.
    Raises OSError, and the log is as it was: no space, for instance. Only while no engine runs on the folder.
    """
    log = folder / LOG_FOLDER
    try:
        manifest = read_manifest(log)
        following = manifest.next_increment()
    except NotALog:
        return None
    names = [file.name for file in manifest.increments]
    if damaged not in names:
        return None
    gone = manifest.increments[names.index(damaged) :]
    with _Salvager(log, following.name) as salvager:
        salvager.read([file.name for file in gone])
    if not salvager.gaps:
        return None
    kept = _keep_aside(folder, log, damaged, following.name)
    report = SalvageReport(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        damaged_file=damaged,
        damaged_at=salvager.gaps[0].start,
        kept_bytes=salvager.kept_bytes,
        gaps=tuple(salvager.gaps),
        events_carried=salvager.carried,
        events_missing=tuple(salvager.missing),
        kept_in=str(kept),
    )
    write_file(kept / REPORT_FILE, msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")
    _replace_manifest(manifest, gone, following)
    for file in gone:
        (log / file.name).unlink(missing_ok=True)
    return report


def reports_of(folder: Path) -> list[SalvageReport]:
    """The reports of every damaged log that is kept beside the engine's, oldest first."""
    reports = []
    for file in sorted(folder.glob(f"{KEPT_PREFIX}*/{REPORT_FILE}")):
        try:
            reports.append(msgspec.json.decode(file.read_bytes(), type=SalvageReport))
        except (OSError, msgspec.DecodeError):
            # Of another version, or not written to its end: the salvage that wrote it began anew.
            continue
    return sorted(reports, key=lambda report: report.at)


class _Stream(msgspec.Struct):
    """One outbox, as far as it was read."""

    last: tuple[int, int] | None = None
    """Position of its last entry; None: that stands in the base file, if there is any."""
    is_doubtful: bool = False
    """Entries after `last` may stand in bytes that cannot be read."""
    epoch: int = 0
    seq: int = 0
    """What the gate tells of the last event."""


class _Salvager:
    """Reads the damaged file and those after it, and writes the one that takes their place."""

    def __init__(self, log: Path, name: str) -> None:
        self.kept_bytes = 0
        self.gaps: list[Gap] = []
        self.carried = 0
        self.missing: list[Missing] = []
        self._log = log
        self._target = log / name
        self._out: BinaryIO | None = None
        self._streams: dict[bytes, _Stream] = {}
        self._is_open = False
        self._pending: list[Command] = []
        """The transaction before the damage that has not ended yet."""

    def __enter__(self) -> _Salvager:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._out is not None:
            self._out.close()
            if kind is not None:
                self._target.unlink(missing_ok=True)

    def read(self, names: Sequence[str]) -> None:
        """All of these files, the damaged one first; none but that if there is nothing wrong with it."""
        for name in names:
            for part in _parts_of(self._log / name):
                if isinstance(part, Damage):
                    self._meet_damage(name, part)
                elif self.gaps:
                    self._take(part)
                else:
                    self._keep(part)
            if not self.gaps:
                return
        self._end()

    def _keep(self, command: Command) -> None:
        """A command before the damage: kept once its transaction is whole."""
        self._pending.append(command)
        if command.name == b"MULTI":
            self._is_open = True
        elif command.name == b"EXEC":
            self._is_open = False
        if not self._is_open:
            for its in self._pending:
                self._note(its)
            self._pending.clear()
            self.kept_bytes = command.end

    def _meet_damage(self, name: str, damage: Damage) -> None:
        if not self.gaps:
            self._begin(name)
        self.gaps.append(Gap(file=name, start=damage.start, end=damage.end))
        for stream in self._streams.values():
            stream.is_doubtful = True

    def _begin(self, name: str) -> None:
        """Write what is kept of the damaged file, and what of a transaction that the damage tore stands
        before it: it was whole once, so its event counts like those behind."""
        self._out = self._target.open("wb")
        with (self._log / name).open("rb") as source:
            left = self.kept_bytes
            while left:
                piece = source.read(min(left, _COPY_BYTES))
                self._out.write(piece)
                left -= len(piece)
        self._write(b"SELECT", b"0")
        pending, self._pending = self._pending, []
        for command in pending:
            self._take(command)

    def _write(self, *args: bytes) -> None:
        assert self._out is not None
        self._out.write(encode(*args))

    def _stream(self, key: bytes) -> _Stream:
        stream = self._streams.get(key)
        if stream is None:
            # Met behind the damage for the first time: what comes before may stand in it.
            stream = self._streams[key] = _Stream(is_doubtful=bool(self.gaps))
        return stream

    def _note(self, command: Command) -> None:
        entry = _entry_of(command)
        if entry is not None:
            self._stream(entry[0]).last = entry[1]
        for key in _outboxes_removed(command):
            self._streams[key] = _Stream()
        self._note_gate(command)

    def _note_gate(self, command: Command) -> None:
        if command.name != b"HSET" or not _GATE.match(command.args[1]):
            return
        stream = self._stream(command.args[1].removesuffix(b"gate") + b"outbox")
        fields = dict(zip(command.args[2::2], command.args[3::2], strict=False))
        epoch, seq = fields.get(b"epoch", b""), fields.get(b"seq", b"")
        stream.epoch = int(epoch) if epoch.isdigit() else stream.epoch
        stream.seq = int(seq) if seq.isdigit() else stream.seq

    def _take(self, command: Command) -> None:
        """A command behind the beginning of the damage: of these only the outbox's entries count."""
        for key in _outboxes_removed(command):
            self._write(b"UNLINK", key)
            self._streams[key] = _Stream()
        self._note_gate(command)
        entry = _entry_of(command)
        if entry is None:
            return
        key, position = entry
        stream = self._stream(key)
        if _begins_a_stream(command) or (stream.last is not None and position <= stream.last):
            # A rebuild removed the stream, after it had brought everything in it into the record.
            self._write(b"UNLINK", key)
        elif stream.is_doubtful:
            self._bridge_to(key, stream, command, position)
        self._write(*command.args)
        stream.last = position
        stream.is_doubtful = False
        self.carried += 1

    def _bridge_to(self, key: bytes, stream: _Stream, command: Command, position: tuple[int, int]) -> None:
        """Make sure that the entry before this one is there."""
        previous = _field_of(command, b"previous")
        if previous is None:
            # A version that named no predecessor counted without a gap.
            self._bridge(key, stream, position[0], position[1] - 1, b"", named_by=_text(position))
            return
        match = _PREVIOUS.match(previous)
        if match is not None:
            self._bridge(key, stream, int(match[1]), int(match[2]), match[3], named_by=_text(position))

    def _bridge(
        self, key: bytes, stream: _Stream, epoch: int, seq: int, nonce: bytes, *, named_by: str
    ) -> None:
        if seq < 1 or (stream.last is not None and seq <= stream.last[1]):
            return
        place = (str(epoch).encode(), str(seq).encode(), nonce)
        self._write(b"EVAL", _BRIDGE, b"1", key, *place, _BODY, str(PLACEHOLDERS_MAX).encode())
        after = _text(stream.last) if stream.last is not None else None
        self.missing.append(
            Missing(outbox=key.decode(), after=after, through=f"{epoch}-{seq}", named_by=named_by)
        )

    def _end(self) -> None:
        """What the gates counted after the last entry that can be read, and the gates shut."""
        assert self._out is not None
        for key, stream in self._streams.items():
            if stream.is_doubtful and stream.last is not None:
                self._bridge(key, stream, max(stream.epoch, stream.last[0]), stream.seq, b"", named_by="gate")
        self._write(b"EVAL", _SHUT_GATES, b"0", DAMAGED.encode(), _BECAUSE)
        self._out.flush()
        os.fsync(self._out.fileno())


def _parts_of(file: Path) -> Iterator[Command | Damage]:
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_size:
            with mmap(opened.fileno(), 0, access=ACCESS_READ) as data:
                yield from scan(data)


def _entry_of(command: Command) -> tuple[bytes, tuple[int, int]] | None:
    """Outbox and position of the entry that a command appends."""
    args = command.args
    if command.name != b"XADD" or len(args) < 5 or not _OUTBOX.match(args[1]):
        return None
    match = _ENTRY_ID.match(args[2])
    return (args[1], (int(match[1]), int(match[2]))) if match and len(args) % 2 else None


def _field_of(command: Command, name: bytes) -> bytes | None:
    fields = command.args[3:]
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(name)


def _begins_a_stream(command: Command) -> bool:
    """Whether the entry is the first that an empty outbox gets."""
    return _field_of(command, b"type") == b"anchor" or _field_of(command, b"previous") == b""


def _outboxes_removed(command: Command) -> list[bytes]:
    if command.name not in (b"UNLINK", b"DEL"):
        return []
    return [key for key in command.args[1:] if _OUTBOX.match(key)]


def _text(position: tuple[int, int]) -> str:
    return f"{position[0]}-{position[1]}"


def _keep_aside(folder: Path, log: Path, damaged: str, written: str) -> Path:
    """The log as it was found, without the file that was `written` since; under the same name however often
    this is begun."""
    changed = datetime.fromtimestamp((log / damaged).stat().st_mtime, UTC)
    kept = folder / f"{KEPT_PREFIX}{changed:%Y%m%dT%H%M%S}"
    copy = kept / LOG_FOLDER
    if kept.exists():
        shutil.rmtree(kept)
    copy.mkdir(parents=True, mode=0o700)
    for file in sorted(log.iterdir()):
        if file.name == written:
            continue
        try:
            # The engine appends to the last file only, which is a new one from now on.
            os.link(file, copy / file.name)
        except OSError:
            shutil.copy2(file, copy / file.name)
    _sync(copy)
    _sync(kept)
    _sync(folder)
    return kept


def _replace_manifest(manifest: Manifest, gone: tuple[LogFile, ...], following: LogFile) -> None:
    lines = [file.line for file in manifest.files if file not in gone] + [following.line]
    written = manifest.path.with_name(f"temp-{manifest.path.name}.salvaged")
    with written.open("w", encoding="ascii") as target:
        target.write("\n".join([*lines, ""]))
        target.flush()
        os.fsync(target.fileno())
    written.replace(manifest.path)
    _sync(manifest.path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
