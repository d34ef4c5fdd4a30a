"""Files that are CSV, and files that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartstore import limits
from cartstore.catalog import csv_source
from cartstore.catalog.csv_source import CsvSource
from cartstore.catalog.importing import parse_catalog
from cartstore.errors import InvalidField

EXPORT = (
    b"Handle,Title,Option1 Name,Option1 Value,Variant Inventory Qty,Variant Inventory Policy,Variant Price\n"
)


def lines_and_first_cells(source: CsvSource) -> list[tuple[int, str]]:
    return [(row.line, row[source.columns[0]]) for row in source.rows()]


def test_rows_have_the_number_of_their_first_line() -> None:
    source = CsvSource(b'a,b\n1,x\n\n2,"two\nlines\r\nand more"\n3,y\n')

    assert lines_and_first_cells(source) == [(2, "1"), (4, "2"), (7, "3")]
    assert (source.rows_done, source.rows_total) == (3, 3)


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfa,b\n1,2\n", b"a,b\r\n1,2\r\n", b"a,b\r1,2\r", b"a,b\n1,2"])
def test_rows_are_the_same_with_bom_and_any_line_ends(data: bytes) -> None:
    source = CsvSource(data)

    assert [row.cells for row in source.rows()] == [{"a": "1", "b": "2"}]
    assert [row.line for row in source.rows()] == [2]


def test_row_is_padded_when_it_is_short_and_told_apart_when_it_is_long() -> None:
    short, trailing, long = CsvSource(b"a,b\n1\n1,2, ,\n1,2,3\n").rows()

    assert (short["b"], short["c"], short.problem) == ("", "", None)
    assert trailing.problem is None
    assert long.problem == "The row has 3 cells, the header 2."


def test_row_takes_the_first_of_two_columns_with_one_name() -> None:
    (row,) = CsvSource(b"a,a\n1,2\n").rows()

    assert row["a"] == "1"


def test_source_reads_a_file_as_it_reads_bytes(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_bytes(b"a,b\n1,2\n")

    assert lines_and_first_cells(CsvSource(path)) == [(2, "1")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\n\n \n", "empty"),
        (b"a,b\n1,\x00\n", "line 2 has a NUL"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "UTF-8"),
        ("a,b\nÄ,2\n".encode("latin-1"), "UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-8"),
        (b'a,b\n1,2\n3,"never closed\n4,5\n', "Line 3: a quoted value is not closed"),
        (b'a,b\n1,"x"y\n', "Line 2: a quoted value goes on"),
        (b'a,b\n1,"' + b"x" * 200_000 + b'"\n', "Line 2: a value has more than"),
    ],
)
def test_source_refuses_a_file_that_is_no_csv(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidField, match=reason) as caught:
        CsvSource(data)

    assert caught.value.field == "file"


def test_source_refuses_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(InvalidField, match="cannot be read"):
            CsvSource(path)


def test_source_refuses_too_many_bytes_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_source, "IMPORT_ROWS_MAX", 2)
    CsvSource(b"a\n1\n2\n")
    with pytest.raises(InvalidField, match="3 rows; at most 2"):
        CsvSource(b"a\n1\n2\n3\n")

    monkeypatch.setattr(csv_source, "IMPORT_BYTES_MAX", 4)
    with pytest.raises(InvalidField, match="6 bytes; at most 4"):
        CsvSource(b"a\n1\n2\n")


@pytest.mark.parametrize(
    "data",
    [
        b"hello world\n",
        b"a,b\n1,2\n",
        b"Handle;Title;Variant Price\nx;y;1\n",
        b'[{"id": "mug"}]\n',
        b"<html>\n",
    ],
)
def test_parse_refuses_a_file_of_no_known_shop(data: bytes) -> None:
    with pytest.raises(InvalidField, match="no product export") as caught:
        parse_catalog(data, currency="EUR")

    assert caught.value.field == "file"


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (EXPORT.replace(b"Variant Price", b"Variant Cost"), "Variant Price"),
        (EXPORT.replace(b"Title,", b""), "Title"),
        (b"ID,Type,SKU,Published,Parent\n", "Name, Regular price"),
    ],
)
def test_parse_names_the_columns_that_are_missing(data: bytes, missing: str) -> None:
    with pytest.raises(InvalidField, match=f"lacks the column {missing}".replace("?", r"\?")):
        parse_catalog(data, currency="EUR")


def test_parse_refuses_an_unknown_currency() -> None:
    with pytest.raises(InvalidField) as caught:
        parse_catalog(EXPORT, currency="euro")

    assert caught.value.field == "currency"


def test_parse_takes_a_header_without_rows() -> None:
    assert list(parse_catalog(EXPORT, currency="EUR")) == []


def test_parse_holds_few_rows_at_a_time_when_a_file_is_large() -> None:
    """200,000 rows: read as they come, not collected."""
    rows = b"".join(b"p%d,Mug,Title,Default Title,1,deny,9.99\n" % n for n in range(limits.IMPORT_ROWS_MAX))
    file = parse_catalog(EXPORT + rows, currency="EUR")

    first = next(iter(file))

    assert file.rows_total == limits.IMPORT_ROWS_MAX
    assert file.rows_done <= 2
    assert first is not None
