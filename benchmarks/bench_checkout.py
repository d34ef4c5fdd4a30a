"""Checkouts acknowledged per second over HTTP, in both modes, with a worker that archives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks import pipeline, requests, wrk
from benchmarks.measure import Figure, Result, Sample, interleaved, p99, pairs_of, rate
from benchmarks.options import Options
from benchmarks.seeding import carts_of, fill, identity_of, open_shop
from benchmarks.servers import Served, Servers, api, servers, worker
from benchmarks.workload import Operation, adds

CONNECTIONS = 32
CARTS = 12_000
"""More than are checked out in one round: each can be checked out once."""

SECONDS_MIN = 3.0

ENGINE = Figure(
    key="checkout_engine",
    title="checkouts acknowledged per second, `engine` (fsync always)",
    baseline="adds per second of the same process",
    unit="calls/s",
)
ARCHIVED = Figure(
    key="checkout_archived",
    title="checkouts acknowledged per second, `archived` (after the PostgreSQL commit)",
    baseline="mode `engine`",
    unit="checkouts/s",
)
ARCHIVED_P99 = Figure(
    key="checkout_archived_p99",
    title="checkouts, p99: `archived`",
    baseline="mode `engine`",
    unit="ms",
)
FIGURES = (ENGINE, ARCHIVED, ARCHIVED_P99)


def run(options: Options) -> Iterator[Result]:
    if not options.wants(*FIGURES):
        return
    wrk.check()
    with servers(fsync="always") as found, ExitStack() as stack:
        open_shop(found)
        stack.enter_context(worker(found))
        served = {mode: stack.enter_context(api(found, checkout_ack=mode)) for mode in ("engine", "archived")}
        checkouts = Checkouts(found, served, options)
        checkouts.warm()
        samples = interleaved(
            {
                "adds": checkouts.adds,
                "engine": partial(checkouts.checkouts, "engine"),
                "archived": partial(checkouts.checkouts, "archived"),
            },
            max(2, options.repetitions // 2),
        )
    note = f"{CONNECTIONS} connections, carts of 3 lines, one worker"
    yield Result(figure=ENGINE, pairs=pairs_of(samples["engine"], samples["adds"], rate), note=note)
    yield Result(figure=ARCHIVED, pairs=pairs_of(samples["archived"], samples["engine"], rate), note=note)
    yield Result(figure=ARCHIVED_P99, pairs=pairs_of(samples["archived"], samples["engine"], p99), note=note)


class Checkouts:
    """A cart is checked out once, so every round starts with full carts."""

    def __init__(self, found: Servers, served: dict[str, Served], options: Options) -> None:
        self._found, self._served, self._options = found, served, options
        self._packer = pipeline.Packer(identity_of(found))
        self._who = requests.users(CARTS)
        self._adds = wrk.write_requests(
            found.folder / "adds", requests.to_service(served["engine"], self._who, adds(20_000))
        )
        every = [Operation("checkout", number) for number in range(CARTS)]
        self._files = {
            mode: wrk.write_requests(
                found.folder / f"checkouts-{mode}", requests.to_service(it, self._who, every)
            )
            for mode, it in served.items()
        }

    def warm(self) -> None:
        for mode in self._served:
            self.checkouts(mode)

    def adds(self) -> Sample:
        return wrk.run(
            self._served["engine"].url, self._adds, seconds=self._options.seconds, connections=CONNECTIONS
        )

    def checkouts(self, mode: str) -> Sample:
        found = self._found
        # Every cart that was emptied is full again. Should a machine ever be quicker than there are carts,
        # the refusals of empty ones say so.
        found.fsync("everysec")
        assert fill(found, carts_of(self._packer, CARTS)) == 0
        found.fsync("always")
        sample = wrk.run(
            self._served[mode].url,
            self._files[mode],
            seconds=max(SECONDS_MIN, self._options.seconds),
            connections=CONNECTIONS,
        )
        if sample.failed:
            raise RuntimeError(f"{sample.failed} of {sample.count} checkouts were refused in mode {mode}")
        return sample
