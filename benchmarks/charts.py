"""The table and the charts of README.md, from the results of a run. No dependency: an SVG of bars is text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from benchmarks.measure import Result

BEGIN: Final = "<!-- results: begin -->"
END: Final = "<!-- results: end -->"

_WIDTH, _LABEL, _ROW, _TOP = 920, 440, 26, 30
_GOOD, _BAD, _PLAIN, _TARGET = "#2e7d5b", "#b3412e", "#5b7c99", "#222222"


def number(value: float) -> str:
    """As few digits as tell something."""
    if value >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.2g}"


def mark(result: Result) -> str:
    return {True: "✓", False: "✗", None: ""}[result.verdict]


def table(results: Sequence[Result]) -> str:
    """One row per figure: what was measured, its baseline, the ratio, its spread, that of the best
    repetitions, and the target."""
    rows = [
        "| figure | measured | baseline | ratio (min to max) | of the best | target | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for result in results:
        figure = result.figure
        told = f"{number(result.median)} ({number(result.lowest)} to {number(result.highest)})"
        if figure.absolute:
            told = f"{told} {figure.unit}"
        rows.append(
            f"| {figure.title} | {number(result.value())} {figure.unit} | {number(result.baseline())} "
            f"| {told} | {number(result.best) if result.best is not None else ''} | {figure.target} "
            f"| {mark(result)} |"
        )
    return "\n".join(rows)


def chart(title: str, results: Sequence[Result]) -> str:
    """Bars of what was reached as a share of the target, 1 being the target; the spread as a thin line."""
    judged = [(result, *_shares(result)) for result in results if result.verdict is not None]
    height = _TOP + _ROW * len(judged) + 24
    longest = min(3.0, max([1.2, *(high for _, _, _, high in judged)]))
    scale = (_WIDTH - _LABEL - 70) / longest
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for place, (result, share, low, high) in enumerate(judged):
        top = _TOP + place * _ROW
        color = _GOOD if result.verdict else _BAD
        bar, thin = min(share, longest) * scale, (min(low, longest) * scale, min(high, longest) * scale)
        lines += [
            f'<text x="{_LABEL - 8}" y="{top + 15}" text-anchor="end">'
            f"{escape(_short(result.figure.title))}</text>",
            f'<rect x="{_LABEL}" y="{top + 4}" width="{bar:.1f}" height="15" fill="{color}"/>',
            f'<line x1="{_LABEL + thin[0]:.1f}" x2="{_LABEL + thin[1]:.1f}" y1="{top + 11.5}" '
            f'y2="{top + 11.5}" stroke="#000000" stroke-width="1"/>',
            f'<text x="{_LABEL + max(bar, thin[1]) + 6:.1f}" y="{top + 16}">{number(result.median)}</text>',
        ]
    foot = _TOP + _ROW * len(judged)
    lines += [
        f'<line x1="{_LABEL + scale:.1f}" x2="{_LABEL + scale:.1f}" y1="{_TOP}" y2="{foot}" '
        f'stroke="{_TARGET}" stroke-dasharray="4 3"/>',
        f'<text x="{_LABEL + scale:.1f}" y="{foot + 15}" text-anchor="middle">target</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def rates(title: str, rows: Sequence[tuple[str, float]]) -> str:
    """Bars of plain numbers."""
    height = _TOP + _ROW * len(rows) + 10
    scale = (_WIDTH - _LABEL - 90) / max([1.0, *(value for _, value in rows)])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for place, (name, value) in enumerate(rows):
        top = _TOP + place * _ROW
        lines += [
            f'<text x="{_LABEL - 8}" y="{top + 15}" text-anchor="end">{escape(_short(name))}</text>',
            f'<rect x="{_LABEL}" y="{top + 4}" width="{value * scale:.1f}" height="15" fill="{_PLAIN}"/>',
            f'<text x="{_LABEL + value * scale + 6:.1f}" y="{top + 16}">{number(value)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def put_between(text: str, inside: str) -> str:
    """The text with what stands between the markers replaced. Raises ValueError without markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{inside.strip()}\n{END}{after}"


def publish(readme: Path, folder: Path, results: Sequence[Result], heading: str) -> None:
    """Write the charts beside the page and put table and charts into it."""
    folder.mkdir(exist_ok=True)
    (folder / "targets.svg").write_text(chart("What was reached, as a share of the target", results))
    calls = [
        (f"{name} ({result.figure.key})", value)
        for result in results
        if result.figure.unit == "adds/s" and result.figure.at_least is not None
        for name, value in (("ours", result.value()), ("baseline", result.baseline()))
    ]
    (folder / "rates.svg").write_text(rates("Adds per second", calls))
    inside = "\n\n".join(
        [
            heading,
            table(results),
            f"![Share of target]({folder.name}/targets.svg)",
            f"![Adds per second]({folder.name}/rates.svg)",
        ]
    )
    readme.write_text(put_between(readme.read_text(), inside))


def _shares(result: Result) -> tuple[float, float, float]:
    """Median and spread as shares of the target; above 1 is better, also where less is better."""
    figure = result.figure
    if figure.at_least is not None:
        return tuple(value / figure.at_least for value in (result.median, result.lowest, result.highest))  # type: ignore[return-value]
    assert figure.at_most is not None
    worst_first = (result.median, result.highest, result.lowest)
    return tuple(figure.at_most / value if value else 3.0 for value in worst_first)  # type: ignore[return-value]


def _short(text: str, length: int = 66) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
