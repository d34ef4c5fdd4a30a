"""Owns what people see of cartstore on a terminal: consoles, the import's progress and its report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn

from cartstore.catalog.importing import ImportReport
from cartstore.store import CartStore

_WIDTH_OF_PIPES = 200


def output() -> Console:
    """For answers. What goes to a file or a pipe is not wrapped to some assumed width."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_PIPES, highlight=False, markup=False)


def complaints() -> Console:
    """For everything that is not the answer; one message is one line, however long."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


async def import_with_report(
    store: CartStore,
    file: Path,
    name: str | None = None,
    *,
    currency: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> ImportReport:
    """Import one file, showing progress, and name what was left out; `currency` and `columns` as in
    `CartStore.import_catalog`. Raises what the import raises."""
    name, errors = name or str(file), complaints()
    shown = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn())
    # Transient: the report that follows says the same in one line. Silent where nobody watches.
    with Progress(*shown, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(name, total=None)

        def show(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        report = await store.import_catalog(file, currency=currency, columns=columns, on_progress=show)
    for rejection in report.rejected:
        of = f" ({rejection.name})" if rejection.name else ""
        errors.print(f"{name}, line {rejection.line}{of}: {rejection.reason}")
    for note in report.notes:
        errors.print(f"{name}, line {note.line} ({note.name}): {note.text}")
    left_out = f", {_counted(len(report.rejected), 'row')} left out" if report.rejected else ""
    products, variants = _counted(report.products, "product"), _counted(report.imported_variants, "variant")
    output().print(f"{name}: {products} with {variants}{left_out}", soft_wrap=True)
    return report


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
