"""What the benchmarks make of what they measured: ratios, verdicts, the page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import charts, run  # noqa: E402
from benchmarks.measure import (  # noqa: E402
    Figure,
    Pair,
    Result,
    Sample,
    interleaved,
    pairs_of,
    percentile,
    rate,
    sample_of,
)
from benchmarks.options import Options  # noqa: E402

AT_LEAST = Figure(key="a", title="A <of> B", baseline="B", unit="adds/s", at_least=0.5)
AT_MOST = Figure(key="b", title="b", baseline="calm", unit="ms", at_most=2, absolute=True, belongs_to="full")


def test_result_is_the_median_of_ratios_when_the_machine_changes_its_pace() -> None:
    result = Result(figure=AT_LEAST, pairs=[Pair(60, 100), Pair(6, 10), Pair(9, 10)])

    assert (result.lowest, result.median, result.highest) == (0.6, 0.6, 0.9)
    assert result.verdict is True
    assert (result.value(), result.baseline()) == (9, 10)


@pytest.mark.parametrize(("value", "reached"), [(1.9, True), (2.0, True), (2.1, False)])
def test_result_judges_the_value_itself_when_the_target_is_absolute(value: float, reached: bool) -> None:
    assert Result(figure=AT_MOST, pairs=[Pair(value, 100)]).verdict is reached


def test_result_tells_the_best_of_either_side_when_it_is_a_ratio() -> None:
    pairs = [Pair(40, 50), Pair(30, 100), Pair(20, 80)]

    assert Result(figure=AT_LEAST, pairs=pairs).best == 0.4
    latency = msgspec.structs.replace(AT_MOST, absolute=False, unit="ms")
    assert Result(figure=latency, pairs=pairs).best == 0.4
    assert Result(figure=msgspec.structs.replace(latency, unit="us"), pairs=pairs[:2]).best == 0.6
    assert Result(figure=AT_MOST, pairs=pairs).best is None


def test_interleaved_takes_turns_and_turns_round_when_it_is_repeated() -> None:
    order: list[str] = []

    def side(name: str) -> Sample:
        order.append(name)
        return Sample(rate=len(order))

    samples = interleaved({"a": lambda: side("a"), "b": lambda: side("b")}, 3)

    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [pair.ratio for pair in pairs_of(samples["a"], samples["b"], rate)] == [1 / 2, 4 / 3, 5 / 6]
    assert [pair.ratio for pair in pairs_of(samples["a"], samples["b"][:1], rate)] == [1 / 2]


def test_percentile_is_a_value_that_was_measured_when_there_are_few() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2
    assert percentile([1, 2, 3, 4], 0.99) == 4
    assert percentile([], 0.99) == 0
    assert sample_of([0.001] * 98 + [0.5, 1.0], 2.0).p99 == 500


def test_figures_have_a_baseline_and_a_benchmark_when_they_are_listed() -> None:
    keys = [figure.key for figure in run.FIGURES]

    assert len(set(keys)) == len(keys)
    for name, benchmark in run.BENCHMARKS.items():
        for figure in benchmark.FIGURES:
            assert figure.key.startswith(f"{name}_")
            assert figure.baseline
            assert figure.unit
            assert figure.at_least is None or figure.at_most is None


def test_targets_are_those_of_the_contract_when_they_are_listed() -> None:
    targets = {figure.key: figure.target for figure in run.FIGURES if figure.target != "reported"}

    assert targets == {
        "engine_hot_many": "≥ 0.85",
        "engine_refused_adds": "≥ 1",
        "engine_million_carts": "≥ 0.9",
        "engine_holders": "≥ 0.9",
        "store_engine": "≥ 0.6",
        "store_wire_redis_py": "≥ 2.2",
        "store_refused_adds": "≥ 1",
        "http_add_user": "≥ 0.7",
        "http_add_guest": "≥ 0.7",
        "http_read": "≥ 0.6",
        "http_p99_half": "≤ 2",
        "http_refused_adds": "≥ 1",
        "archive_drain": "≥ 0.4",
        "memory_cart": "≤ 800",
        "holds_longest_script": "≤ 5",
        "holds_p99_others": "≤ 2",
        "recovery_rebuild": "≤ 30",
    }


def test_options_choose_figures_when_sets_or_names_are_asked_for() -> None:
    assert Options().wants(AT_LEAST)
    assert not Options().wants(AT_MOST)
    assert Options(full=True).wants(AT_MOST)
    assert Options(only=["b"]).wants(AT_MOST)
    assert not Options(only=["b"]).wants(AT_LEAST)


def test_page_gets_table_and_charts_when_it_is_published(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{charts.BEGIN}\nold\n{charts.END}\nafter\n")
    results = [
        Result(figure=AT_LEAST, pairs=[Pair(40, 100), Pair(30, 100)]),
        Result(figure=AT_MOST, pairs=[Pair(1, 0.5)]),
    ]

    charts.publish(page, tmp_path / "results", results, "heading")

    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| A <of> B | 35 adds/s | 100 | 0.35 (0.3 to 0.4) | 0.4 | ≥ 0.5 | ✗ |" in text
    assert "✓" in text
    svg = (tmp_path / "results" / "targets.svg").read_text()
    assert "A &lt;of&gt; B" in svg
    assert svg.count("<rect") == 3


def test_put_between_refuses_a_page_when_it_has_no_markers() -> None:
    with pytest.raises(ValueError, match="the page has no"):
        charts.put_between("text", "inside")


def test_results_read_as_they_were_written_when_they_are_read_again(tmp_path: Path) -> None:
    results = [Result(figure=AT_LEAST, pairs=[Pair(1, 2, {"note": "x"})], note="n")]

    run.write(tmp_path / "r.json", {"commit": "abc"}, results)

    assert run.read(tmp_path / "r.json") == ({"commit": "abc"}, results)


def test_reserve_is_shorter_than_forty_lines_when_it_is_a_baseline() -> None:
    assert len((ROOT / "benchmarks/baselines/reserve.lua").read_text().splitlines()) < 40


def test_readme_has_the_markers_when_results_are_to_be_published() -> None:
    text = run.README.read_text()

    assert re.search(f"{re.escape(charts.BEGIN)}.*{re.escape(charts.END)}", text, re.DOTALL)
