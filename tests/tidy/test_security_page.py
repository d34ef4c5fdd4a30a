"""docs/security.md names a test for each thing that it says: each of them must exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
_PAGE = (_TESTS.parent / "docs/security.md").read_text()
_SECTION = re.compile(r"^## (?P<title>.+)$", re.MULTILINE)
_FILE = re.compile(r"\btest_\w+\.py\b")
_FUNCTION = re.compile(r"\btest_\w+\b(?!\.py)")
_WORDS = re.compile(r"`(?P<words>\w+)`")
_DEFINED = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)

_API_RISKS_2023 = [f"API{number}:2023" for number in range(1, 11)]


@cache
def names_by_file() -> dict[str, set[str]]:
    """The tests of each file, by its name without folders."""
    return {file.name: set(_DEFINED.findall(file.read_text())) for file in _TESTS.rglob("test_*.py")}


def _path_of(file: str) -> Path:
    return next(_TESTS.rglob(file))


def rows_of_sections() -> dict[str, list[list[str]]]:
    """The rows of each section's table, without its head."""
    parts = _SECTION.split(_PAGE)[1:]
    tables = {}
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        lines = [line for line in text.splitlines() if line.startswith("|")]
        tables[title] = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    return tables


@pytest.mark.parametrize("title", rows_of_sections())
def test_each_row_names_tests_that_exist(title: str) -> None:
    for row in rows_of_sections()[title]:
        named = row[-1]
        files, functions = _FILE.findall(named), _FUNCTION.findall(named)
        assert files or functions or named.startswith("the same"), f"no test is named: {row[0]}"
        known = names_by_file()
        assert set(files) <= known.keys(), row
        assert set(functions) <= set().union(*known.values()), row
        # A word beside files is a part of a test's name, or the name of a table of cases.
        for word in _WORDS.findall(named):
            places = [_path_of(file).read_text().lower() for file in files]
            assert any(word in place for place in places) or word in functions, (word, row[0])


def test_every_item_of_the_owasp_list_has_a_row() -> None:
    rows = rows_of_sections()["OWASP API Security Top 10 (2023)"]

    assert [row[0].split(" ")[0] for row in rows] == _API_RISKS_2023
    assert rows_of_sections()["Callers, browsers and caches"]


def test_every_row_is_in_a_table() -> None:
    lines = _PAGE.splitlines()
    alone = [
        line
        for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False)
        if line.startswith("|") and not before.startswith("|") and not after.startswith("|---")
    ]
    assert alone == []
