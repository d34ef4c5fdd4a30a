"""Load over HTTP by wrk (Debian: `apt-get install wrk`), closed and open loop; what it runs is load.lua.

wrk is one C program on epoll and is never the limit here. Its script makes it an open-loop generator without
coordinated omission too, so that nothing needs to be installed beside it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.measure import Sample
from benchmarks.servers import CPU_LOAD

MARK: Final = "@" * 10
"""In a request: replaced by a number of its own."""

_SCRIPT: Final = Path(__file__).with_name("load.lua")
_nonces = itertools.count(10)


class WrkMissingError(Exception):
    """wrk is not installed."""


def check() -> None:
    """Raise WrkMissingError with what to do about it."""
    if shutil.which("wrk") is None:
        raise WrkMissingError("HTTP benchmarks need wrk; on Debian and Ubuntu: apt-get install wrk")


def write_requests(file: Path, requests: Iterable[bytes]) -> Path:
    """A file of requests as load.lua reads it."""
    with file.open("wb") as out:
        for request in requests:
            out.write(b"%d\n" % len(request) + request)
    return file


def request(
    method: str, path: str, *, host: str, headers: dict[str, str], body: bytes | None = None
) -> bytes:
    """One request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def run(
    url: str,
    requests: Path,
    *,
    seconds: float,
    connections: int,
    rate: float = 0.0,
    cpus: set[int] = CPU_LOAD,
) -> Sample:
    """Closed loop, or open loop at `rate` per second. `failed` counts answers of 400 and above.

    Raises RuntimeError when a connection broke: no figure stands on half a run.
    """
    check()
    threads = connections if rate else 1
    # wrk takes whole seconds only.
    command = [
        *("wrk", "-t", str(threads), "-c", str(connections), "-d", f"{max(1, round(seconds))}s"),
        *("--timeout", "30s", "-s", str(_SCRIPT), url, "--"),
        *(str(requests), f"{rate:.3f}", str(next(_nonces)), str(threads)),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 60,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"wrk failed: {(done.stderr or done.stdout).strip()[-500:]}")
    told = json.loads(lines[-1])
    if told["broken"]:
        raise RuntimeError(f"{told['broken']} requests of {told['requests']} got no answer")
    return Sample(
        rate=told["requests"] / told["seconds"],
        p50=told["p50"] / 1_000,
        p99=told["p99"] / 1_000,
        p999=told["p999"] / 1_000,
        slowest=told["slowest"] / 1_000,
        count=told["requests"],
        failed=told["refused"],
        details={"connections": connections, "asked_rate": rate, "late": told["late"]},
    )


def warm(url: str, each: Path, count: int, *, connections: int, seconds_max: float = 60.0) -> None:
    """Send about all `count` requests of a file once: tokens are verified and texts read before anything is
    measured. `each` has one request per buyer."""
    first = run(url, each, seconds=1, connections=connections)
    if first.rate < count:
        run(url, each, seconds=min(seconds_max, count / first.rate * 1.2 + 1), connections=connections)
