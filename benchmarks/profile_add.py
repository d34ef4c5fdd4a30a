"""`python -m benchmarks.profile_add`: where the microseconds of one request go.

The service runs in this process, on the server it always runs on, and wrk asks it over HTTP. A timer that
counts this process's CPU time looks at the stack a thousand times a second; the share of looks that find a
part of the program at work is that part's share of the CPU time of a request. Nothing is instrumented, so
nothing is slowed down. The engine's time is its own: what it needed for one script call, by its statistics.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvloop
from cartstore_api.app import Application, create_app
from cartstore_api.logging import configure_logging
from cartstore_api.server import Server

from benchmarks import pipeline, requests, wrk
from benchmarks.seeding import carts_of, fill, identity_of, open_shop, sell_out
from benchmarks.servers import CPU_APP, ROOT, Served, Servers, pinned, servers
from benchmarks.workload import CARTS, SKUS, SOLD_OUT, Operation, adds, sku_name

INTERVAL_SECONDS: Final = 0.001
CONNECTIONS: Final = 32

PARTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("database", ("sqlalchemy/", "asyncpg/", "cartstore/catalog/repository.py", "cartstore/archive/")),
    ("auth", ("cartstore_api/callers.py", "/jwt/", "/hmac.py", "/base64.py")),
    ("decode", ("cartstore_api/bodies.py", "litestar/dto/")),
    (
        "logs and metrics",
        (
            "cartstore_api/observing.py",
            "cartstore_api/metrics.py",
            "cartstore_api/logging.py",
            "/logging/",
            "prometheus_client/",
        ),
    ),
    ("edge", ("cartstore_api/edge.py", "cartstore_api/context.py")),
    (
        "encode",
        (
            "cartstore_api/cart_text.py",
            "cartstore_api/views.py",
            "cartstore/catalog/money.py",
            "litestar/response/",
            "litestar/serialization/",
            "cartstore_api/schemas.py",
        ),
    ),
    ("wire", ("cartstore/redis/wire", "cartstore/redis/caller.py", "site-packages/redis/", "hiredis")),
    ("store", ("cartstore/store.py", "cartstore/redis/", "cartstore/model.py", "cartstore/catalog/")),
    ("connection", ("cartstore_api/connection.py", "cartstore_api/answers.py")),
    ("lane", ("cartstore_api/lane.py", "cartstore_api/turns.py")),
    ("handler", ("cartstore_api/",)),
    (
        "routing",
        (
            "litestar/_asgi/",
            "litestar/routes/",
            "litestar/handlers/",
            "litestar/router.py",
            "litestar/app.py",
        ),
    ),
    ("framework", ("litestar/", "/multidict/")),
    ("server", ("uvicorn/", "uvloop", "asyncio/", "httptools")),
)
"""The innermost frame that one of these names decides; C code counts to the Python that called it."""


class Sampler:
    """Counts the parts that the timer finds at work in the main thread."""

    def __init__(self) -> None:
        self.parts: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self.is_on = False
        self._known: dict[str, str | None] = {}

    def look(self, number: int, frame: FrameType | None) -> None:
        if not self.is_on:
            return
        innermost = frame
        while frame is not None:
            name = frame.f_code.co_filename
            if name not in self._known:
                self._known[name] = _part_of(name)
            part = self._known[name]
            if part is not None:
                self.parts[part] += 1
                assert innermost is not None
                code = innermost.f_code
                self.places[f"{_short(code.co_filename)}:{code.co_name}"] += 1
                return
            frame = frame.f_back
        self.parts["server"] += 1


def _part_of(file: str) -> str | None:
    return next((part for part, names in PARTS if any(name in file for name in names)), None)


def _short(file: str) -> str:
    for root in (f"{ROOT}/", "site-packages/"):
        file = file.rpartition(root)[2]
    return file


async def _serve(app: Application, server: Server, listener: socket.socket) -> None:
    async with app.lifespan():
        await server.serve(sockets=[listener])


def _work(verb: str) -> list[Operation]:
    if verb == "read":
        return [Operation("read", number) for number in range(CARTS)]
    return [Operation("add", op.cart, SOLD_OUT if verb == "refused" else op.sku, 1) for op in adds(20_000)]


def profile(found: Servers, verb: str, seconds: int) -> dict[str, Any]:
    """The split of one request, in microseconds of CPU time."""
    settings = found.settings(checkout_ack="engine")
    # As when it serves: the log is written, but to nowhere, or it would be ours that is on the terminal.
    stderr, sys.stderr = sys.stderr, open(os.devnull, "w")  # noqa: SIM115
    configure_logging()
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        app = create_app(settings)
        server = Server(app)
        served = Served("in process", int(listener.getsockname()[1]), ())
        sampler = Sampler()
        outcome: dict[str, Any] = {}

        def drive() -> None:
            try:
                while not server.started:
                    time.sleep(0.01)
                who = requests.users(CARTS)
                each = wrk.write_requests(found.folder / "each", requests.reads_of_all(served, who))
                wrk.warm(served.url, each, CARTS, connections=CONNECTIONS)
                work = _work(verb)
                file = wrk.write_requests(found.folder / "profiled", requests.to_service(served, who, work))
                wrk.run(served.url, file, seconds=1, connections=CONNECTIONS)
                gc.collect()
                found.client.config_resetstat()
                sampler.is_on = True
                cpu = time.process_time()
                outcome["sample"] = wrk.run(served.url, file, seconds=seconds, connections=CONNECTIONS)
                outcome["cpu_seconds"] = time.process_time() - cpu
                sampler.is_on = False
                stats: dict[str, Any] = found.client.info("commandstats")
                scripts = [stats[kind] for kind in ("cmdstat_evalsha", "cmdstat_fcall") if kind in stats]
                outcome["calls"] = sum(kind["calls"] for kind in scripts)
                outcome["engine_us"] = sum(kind["usec"] for kind in scripts)
            finally:
                server.should_exit = True

        previous = signal.signal(signal.SIGPROF, sampler.look)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)
        thread = threading.Thread(target=drive)
        thread.start()
        try:
            uvloop.run(_serve(app, server, listener))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, previous)
            thread.join()
            sys.stderr.close()
            sys.stderr = stderr
    sample = outcome["sample"]
    us = outcome["cpu_seconds"] / sample.count * 1e6
    looks = sum(sampler.parts.values())
    return {
        "verb": verb,
        "rate": round(sample.rate),
        "us_per_request": round(us, 1),
        "engine_us_per_request": round(outcome["engine_us"] / sample.count, 1),
        "calls_per_request": round(outcome["calls"] / sample.count, 2),
        "parts_us": {part: round(us * count / looks, 1) for part, count in sampler.parts.most_common()},
        "places_us": {place: round(us * count / looks, 1) for place, count in sampler.places.most_common(25)},
    }


def page(found: dict[str, Any]) -> str:
    """The split as Markdown."""
    rows = [f"| {part} | {us} |" for part, us in found["parts_us"].items()]
    calls = f"{found['calls_per_request']:g} calls"
    engine = f"| the engine, beside it ({calls}) | {found['engine_us_per_request']} |"
    whole = f"| **one {found['verb']}** | **{found['us_per_request']}** |"
    return "\n".join(["| part | µs |", "|---|---:|", *rows, whole, engine])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_add", description=__doc__)
    parser.add_argument("--verb", choices=("add", "read", "refused"), default="add")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write all of it there as JSON")
    parser.add_argument("--places", action="store_true", help="also the functions that take most")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        found = stack.enter_context(servers())
        open_shop(found, skus=SKUS + 1)
        sell_out(found, sku_name(SOLD_OUT))
        assert fill(found, carts_of(pipeline.Packer(identity_of(found)), CARTS)) == 0
        stack.enter_context(pinned(CPU_APP))
        split = profile(found, options.verb, options.seconds)
    print(page(split))
    if options.places:
        print()
        print("\n".join(f"{us:8} µs  {place}" for place, us in split["places_us"].items()))
    if options.out:
        options.out.write_text(json.dumps(split, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
