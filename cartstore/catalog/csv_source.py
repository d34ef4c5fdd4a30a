"""A CSV file as rows with line numbers. Owns what makes a file no CSV at all; refuses to know any shop.

The whole file is read once before its first row is given out, so that a file that turns out to be broken
on its last line has changed nothing. Neither pass holds more than a row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, TextIO

import msgspec

from cartstore.errors import InvalidField
from cartstore.limits import IMPORT_BYTES_MAX, IMPORT_ROWS_MAX

FIELD: Final = "file"
"""What the errors name: the file is one field of the request that sends it."""


_BLANK: Final = " \t\ufeff"
"""Also a byte order mark that is not at the file's very beginning, where the decoder drops it."""


class Row(msgspec.Struct, frozen=True):
    """`line` is the number of the row's first line in the file; quoted line breaks count."""

    line: int
    cells: dict[str, str]
    problem: str | None = None
    """Why the cells cannot be told apart; they are then those that could."""

    def __getitem__(self, column: str) -> str:
        """The cell without surrounding space; empty when the file has no such column."""
        return self.cells.get(column, "").strip()


class CsvSource:
    """An opened file. Raises InvalidField (file) when it is too large, no UTF-8 text, or no CSV."""

    def __init__(self, source: Path | bytes) -> None:
        self._source = source
        self.rows_done = 0
        self.rows_total = 0
        _check_size(source)
        self.columns: tuple[str, ...] = ()
        for number, _ in enumerate(self._records()):
            self.rows_total = number
        if not any(self.columns):
            raise _problem("The file is empty.")
        if self.rows_total > IMPORT_ROWS_MAX:
            raise _problem(f"The file has {self.rows_total} rows; at most {IMPORT_ROWS_MAX} are taken.")

    def rename(self, columns: tuple[str, ...]) -> None:
        """Other names for the columns, in the same order."""
        if len(columns) != len(self.columns):
            raise ValueError("as many names as columns")
        self.columns = columns

    def rows(self) -> Iterator[Row]:
        """The rows below the header, each once."""
        records = self._records()
        next(records, None)
        self.rows_done = 0
        for line, cells in records:
            surplus = any(cell.strip() for cell in cells[len(self.columns) :])
            problem = f"The row has {len(cells)} cells, the header {len(self.columns)}." if surplus else None
            # The first of two columns with one name counts.
            by_name = dict(
                zip(reversed(self.columns), reversed(_padded(cells, len(self.columns))), strict=True)
            )
            yield Row(line, by_name, problem)
            self.rows_done += 1

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """(first line, cells) of every record that is not blank, the header first."""
        line = 1
        with _opened(self._source) as stream:
            reader = csv.reader(_text_lines(stream), strict=True)
            try:
                for cells in reader:
                    if any(cell.strip(_BLANK) for cell in cells):
                        if not self.columns:
                            self.columns = tuple(cell.strip(_BLANK) for cell in cells)
                        yield line, cells
                    line = reader.line_num + 1
            except UnicodeDecodeError as error:
                raise _problem(f"The file is no UTF-8 text (near line {line}).") from error
            except csv.Error as error:
                raise _problem(f"Line {line}: {_reason(error)}") from error


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text:
        return "a quoted value is not closed."
    if "field larger" in text:
        return f"a value has more than {csv.field_size_limit()} characters; is a closing quote missing?"
    if "expected after" in text:
        return "a quoted value goes on after its closing quote."
    return f"this is no CSV ({text})."


def _padded(cells: list[str], length: int) -> list[str]:
    """Spreadsheets leave trailing empty cells out."""
    return cells[:length] + [""] * (length - len(cells))


def _text_lines(stream: TextIO) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        if "\0" in line:
            raise _problem(f"The file is no text: line {number} has a NUL character.")
        yield line


def opened_bytes(source: Path | bytes) -> BinaryIO:
    """The content of an imported file. Raises InvalidField (file) when it is too large or cannot be read."""
    _check_size(source)
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return source.open("rb")
    except OSError as error:
        raise _unreadable(source, error) from error


def _check_size(source: Path | bytes) -> None:
    size = len(source) if isinstance(source, bytes) else _size_of(source)
    if size > IMPORT_BYTES_MAX:
        raise _problem(f"The file has {size} bytes; at most {IMPORT_BYTES_MAX} are taken.")


def _opened(source: Path | bytes) -> TextIO:
    # newline="": the csv module must see the line breaks inside quotes as they are. A BOM is dropped.
    if isinstance(source, bytes):
        return io.TextIOWrapper(io.BytesIO(source), encoding="utf-8-sig", newline="")
    try:
        return source.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise _unreadable(source, error) from error


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InvalidField:
    return _problem(f"{path} cannot be read: {error.strerror}.")


def _problem(message: str) -> InvalidField:
    return InvalidField(message, field=FIELD)
