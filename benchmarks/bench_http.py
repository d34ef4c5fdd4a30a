"""The service over HTTP beside a bare ASGI app: throughput in closed loop, latency in open loop."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from benchmarks import pipeline, requests, wrk
from benchmarks.connections import best_kind, best_kind_of_bare
from benchmarks.measure import Figure, Pair, Result, Sample, interleaved, p99, pairs_of, rate
from benchmarks.options import Options
from benchmarks.seeding import carts_of, fill, identity_of, open_shop, sell_out
from benchmarks.servers import CPUS, Served, Servers, api, bare, cpu_of, servers
from benchmarks.workload import CARTS, SKUS, SOLD_OUT, Operation, adds, mixed, sku_name

CALLS = 20_000
MIXED_CALLS = 60_000
CONNECTIONS = 32
MANY_CONNECTIONS = 128
"""So many that there is always work for both CPUs; with CONNECTIONS they wait for each other in turn."""

SHARES = (0.25, 0.75)
"""Of the maximal rate, beside the half that has a target."""

_BARE = "the bare ASGI app on the same server, one call of reserve.lua over the same kind of connection"

USER = Figure(
    key="http_add_user",
    title="http: adds per second, signed in, one API process / bare ASGI app",
    baseline=_BARE,
    unit="adds/s",
    at_least=0.70,
)
SAME = Figure(
    key="http_add_same_script",
    title="http: adds per second, signed in / bare ASGI app that calls the same script as the service",
    baseline="the bare ASGI app on the same server, one call of cart_add_line, of which it reads the tag",
    unit="adds/s",
)
CPU = Figure(
    key="http_add_cpu",
    title="http: CPU time of the serving process per add, signed in / bare ASGI app",
    baseline="the bare app's process, in the same seconds as its rate",
    unit="us",
)
CPU_BESIDE = Figure(
    key="http_add_cpu_beside",
    title="http: CPU time of engine and wrk per add, signed in / bare ASGI app",
    baseline="engine and wrk while the bare app is asked",
    unit="us",
)
GUEST = Figure(
    key="http_add_guest",
    title="http: adds per second, as guest, one API process / bare ASGI app",
    baseline=_BARE,
    unit="adds/s",
    at_least=0.70,
)
MANY = Figure(
    key="http_add_many",
    title=f"http: adds per second, signed in, {MANY_CONNECTIONS} connections / bare ASGI app",
    baseline="the bare app with as many",
    unit="adds/s",
)
READ = Figure(
    key="http_read",
    title="http: GET /v1/cart with 3 lines / the bare app returning the same bytes after the same call",
    baseline="the bare app, cart_read, the same bytes",
    unit="reads/s",
    at_least=0.60,
)
HALF = Figure(
    key="http_p99_half",
    title="http: p99 of adds at half of the maximal rate / the bare app's at the same rate",
    baseline="the bare app at the same rate, open loop",
    unit="ms",
    at_most=2.0,
)
HALF_SAME = Figure(
    key="http_p99_half_same_script",
    title="http: p99 of adds at half of the maximal rate / the bare app's with the same script, same rate",
    baseline="the bare app calling cart_add_line at the same rate, open loop",
    unit="ms",
)
OTHERS = tuple(
    Figure(
        key=f"http_p99_{share * 100:.0f}",
        title=f"http: p99 of adds at {share:.0%} of the maximal rate / the bare app's at the same rate",
        baseline="the bare app at the same rate, open loop",
        unit="ms",
    )
    for share in SHARES
)
MIX = Figure(
    key="http_mix",
    title="http: the mix (50% add, 20% set or remove, 25% read, 5% checkout) / bare ASGI app",
    baseline="the bare app: reads as reads, everything else one reservation",
    unit="requests/s",
)
REFUSED = Figure(
    key="http_refused_adds",
    title='refusals ("sold out") / adds, per second: http',
    baseline="adds by the same buyers",
    unit="requests/s",
    at_least=1.0,
)
SHORT = Figure(
    key="http_short_adds",
    title=f"refusals (some units are left, of {SKUS:,} SKUs in turn) / adds, per second: http",
    baseline="adds by the same buyers",
    unit="requests/s",
)
TWO = Figure(
    key="http_two_processes",
    title="two API processes / one, adds per second",
    baseline="one API process",
    unit="adds/s",
)
FSYNC = Figure(
    key="http_fsync",
    title="http: adds per second, appendfsync always / everysec",
    baseline="the same with everysec",
    unit="adds/s",
)
MEMORY = Figure(
    key="http_memory",
    title="resident memory of one API process / bare ASGI app, after the load",
    baseline="the bare app's process",
    unit="MB",
)
FIGURES = (
    USER,
    SAME,
    CPU,
    CPU_BESIDE,
    GUEST,
    MANY,
    READ,
    HALF,
    HALF_SAME,
    *OTHERS,
    MIX,
    REFUSED,
    SHORT,
    TWO,
    FSYNC,
    MEMORY,
)


def run(options: Options) -> Iterator[Result]:
    if not options.wants(*FIGURES):
        return
    wrk.check()
    with servers() as found, ExitStack() as stack:
        open_shop(found, skus=SKUS + 1)
        sell_out(found, sku_name(SOLD_OUT))
        pack = pipeline.Packer(identity_of(found))
        # Carts of three lines before the first request: every add finds the cart as the last one does. The
        # mix has buyers of its own, whose carts grow and are bought.
        assert fill(found, carts_of(pack, 2 * CARTS)) == 0
        _stock_of_bare(found)
        service = stack.enter_context(api(found, checkout_ack="engine"))
        who = requests.users(CARTS)
        body = requests.read_once(service, who[0])
        plain = stack.enter_context(bare(found, best_kind_of_bare(), canned=body))
        yield from Http(found, service, plain, who, options).figures(len(body))


def _spent_us(spenders: Sequence[str], sample: Sample) -> float:
    """CPU time per request that these spent together."""
    return float(sum(sample.details["cpu_us"][name] for name in spenders))


def _stock_of_bare(found: Servers) -> None:
    from benchmarks.baselines.bare import STOCK

    with found.client.pipeline(transaction=False) as many:
        for number in range(1_000):
            many.hset(f"{pipeline.PREFIX}bare:stock:{sku_name(number)}", "on_hand", STOCK)
        many.execute()


class Http:
    """The two programs, and the files of requests to them."""

    def __init__(
        self,
        found: Servers,
        service: Served,
        plain: Served,
        who: Sequence[requests.Headers],
        options: Options,
    ) -> None:
        self._found, self._service, self._plain, self._options = found, service, plain, options
        self._who = who
        self._adds = adds(CALLS)
        self._to_bare = self._file("bare-adds", requests.to_bare(plain, who, self._adds))
        self._to_bare_same = self._file("bare-same", requests.to_bare(plain, who, self._adds, "holds"))
        self._to_service = self._file("adds", requests.to_service(service, who, self._adds))

    def _file(self, name: str, found: Sequence[bytes]) -> Path:
        return wrk.write_requests(self._found.folder / name, found)

    def _warm(self, name: str, served: Served, who: Sequence[requests.Headers]) -> None:
        file = self._file(name, requests.reads_of_all(served, who))
        wrk.warm(served.url, file, len(who), connections=CONNECTIONS)

    def _closed(
        self,
        served: Served,
        file: Path,
        *,
        seconds: float | None = None,
        refused: bool = False,
        connections: int = CONNECTIONS,
    ) -> Sample:
        before = self._cpu(served)
        sample = wrk.run(served.url, file, seconds=seconds or self._options.seconds, connections=connections)
        wanted = sample.count if refused else 0
        if sample.failed != wanted:
            raise RuntimeError(f"{sample.failed} of {sample.count} requests were refused, not {wanted}")
        spent = {
            name: round((after - before[name]) / sample.count * 1e6, 2)
            for name, after in self._cpu(served).items()
        }
        return msgspec.structs.replace(sample, details=sample.details | {"cpu_us": spent})

    def _cpu(self, served: Served) -> dict[str, float]:
        """Seconds of CPU time so far, by who spent them."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "served": cpu_of(*(process.pid or 0 for process in served.processes)),
            "engine": cpu_of(self._found.engine.pid or 0),
            "wrk": children.ru_utime + children.ru_stime,
        }

    def _open(self, served: Served, file: Path, asked: float) -> Sample:
        sample = wrk.run(
            served.url, file, seconds=max(2.0, self._options.seconds), connections=CONNECTIONS, rate=asked
        )
        if sample.failed:
            raise RuntimeError(f"{sample.failed} of {sample.count} requests were refused")
        return sample

    def figures(self, body_bytes: int) -> Iterator[Result]:
        options = self._options
        self._warm("each", self._service, self._who)
        self._closed(self._plain, self._to_bare, seconds=1)
        note = f"{CONNECTIONS} connections, over {best_kind()}; the bare app over {best_kind_of_bare()}"
        sides = self._sides()
        samples: dict[str, list[Sample]] = {}
        for is_judged in (False, True):
            # What has a target is measured twice as often.
            wanted = {
                name: side
                for name, (side, figures) in sides.items()
                if options.wants(*(figure for figure in figures if figure.has_target or not is_judged))
            }
            for name, found in interleaved(wanted, options.repetitions).items():
                samples.setdefault(name, []).extend(found)
        for figure, ours, theirs in (
            (USER, "adds", "bare adds"),
            (SAME, "adds", "bare same"),
            (GUEST, "guest adds", "bare adds"),
            (MANY, "many adds", "bare many adds"),
            (READ, "reads", "bare reads"),
            (MIX, "mix", "bare mix"),
            (REFUSED, "refused", "adds"),
            (SHORT, "short", "adds"),
            (FSYNC, "synced", "adds"),
        ):
            if options.wants(figure) and ours in samples:
                its_note = f"{note}, {body_bytes} bytes" if figure is READ else note
                if figure is MANY:
                    its_note = f"over {best_kind()}; the bare app over {best_kind_of_bare()}"
                pairs = pairs_of(samples[ours], samples[theirs], rate)
                yield Result(figure=figure, pairs=pairs, note=its_note)
        for figure, spenders in ((CPU, ("served",)), (CPU_BESIDE, ("engine", "wrk"))):
            if options.wants(figure):
                spent = partial(_spent_us, spenders)
                note = ", ".join(
                    f"{name} {statistics.median(_spent_us((name,), one) for one in samples[side]):.1f} us"
                    for side in ("adds", "bare adds")
                    for name in spenders
                )
                pairs = pairs_of(samples["adds"], samples["bare adds"], spent)
                yield Result(figure=figure, pairs=pairs, note=note)
        if options.wants(MEMORY):
            megabytes = [served.memory() / 1e6 for served in (self._service, self._plain)]
            yield Result(figure=MEMORY, pairs=[Pair(*megabytes)], note="VmRSS")
        if options.wants(HALF, HALF_SAME, *OTHERS):
            yield from self._latencies()
        if options.wants(TWO):
            yield from self._two()

    def _sides(self) -> dict[str, tuple[Callable[[], Sample], Sequence[Figure]]]:
        """What is measured in turn, and for which figures."""
        found: dict[str, tuple[Callable[[], Sample], Sequence[Figure]]] = {}
        service, plain, options = self._service, self._plain, self._options
        found["adds"] = (
            partial(self._closed, service, self._to_service),
            (USER, SAME, CPU, CPU_BESIDE, REFUSED, SHORT, FSYNC, HALF, HALF_SAME, *OTHERS),
        )
        found["bare adds"] = (
            partial(self._closed, plain, self._to_bare),
            (USER, CPU, CPU_BESIDE, GUEST),
        )
        if options.wants(MANY):
            for name, served, file in (
                ("many adds", service, self._to_service),
                ("bare many adds", plain, self._to_bare),
            ):
                found[name] = (partial(self._closed, served, file, connections=MANY_CONNECTIONS), (MANY,))
        if options.wants(SAME):
            found["bare same"] = (partial(self._closed, plain, self._to_bare_same), (SAME,))
        if options.wants(GUEST):
            guests = requests.guests(service, CARTS)
            file = self._file("guest-adds", requests.to_service(service, guests, self._adds))
            self._warm("each-guest", service, guests)
            found["guest adds"] = (partial(self._closed, service, file), (GUEST,))
        if options.wants(READ):
            reads = [Operation("read", number) for number in range(CARTS)]
            ours = self._file("reads", requests.to_service(service, self._who, reads))
            theirs = self._file("bare-reads", requests.to_bare(plain, self._who, reads))
            found["reads"] = (partial(self._closed, service, ours), (READ,))
            found["bare reads"] = (partial(self._closed, plain, theirs), (READ,))
        if options.wants(MIX):
            work = [msgspec.structs.replace(op, cart=op.cart + CARTS) for op in mixed(MIXED_CALLS)]
            buyers = requests.users(2 * CARTS)
            self._warm("each-mix", service, buyers[CARTS:])
            ours = self._file("mix", requests.to_service(service, buyers, work))
            theirs = self._file("bare-mix", requests.to_bare(plain, buyers, work))
            found["mix"] = (partial(self._mixed, service, ours), (MIX,))
            found["bare mix"] = (partial(self._closed, plain, theirs), (MIX,))
        for name, figure, gone in (
            ("refused", REFUSED, [Operation("add", op.cart, SOLD_OUT, 1) for op in self._adds]),
            # More than anybody has: what a buyer could have instead is looked up.
            ("short", SHORT, [Operation("add", op.cart, op.sku, 10**9) for op in self._adds]),
        ):
            if options.wants(figure):
                file = self._file(name, requests.to_service(service, self._who, gone))
                found[name] = (partial(self._closed, service, file, refused=True), (figure,))
        if options.wants(FSYNC):
            found["synced"] = (self._synced, (FSYNC,))
        return found

    def _mixed(self, served: Served, file: Path) -> Sample:
        """Some changes meet a line that the round before has taken away; those refusals are told."""
        sample = wrk.run(served.url, file, seconds=self._options.seconds, connections=CONNECTIONS)
        if sample.failed > 0.05 * sample.count:
            raise RuntimeError(f"{sample.failed} of {sample.count} requests of the mix were refused")
        return sample

    def _synced(self) -> Sample:
        self._found.fsync("always")
        try:
            return self._closed(self._service, self._to_service)
        finally:
            self._found.fsync("everysec")

    def _latencies(self) -> Iterator[Result]:
        ours, theirs = (
            statistics.median(self._closed(served, file).rate for _ in range(3))
            for served, file in ((self._service, self._to_service), (self._plain, self._to_bare))
        )
        for figure, share in ((HALF, 0.5), *zip(OTHERS, SHARES, strict=True)):
            if not self._options.wants(figure, *((HALF_SAME,) if figure is HALF else ())):
                continue
            asked = share * ours
            sides = {
                "service": partial(self._open, self._service, self._to_service, asked),
                "bare": partial(self._open, self._plain, self._to_bare, asked),
            }
            if figure is HALF:
                sides["same"] = partial(self._open, self._plain, self._to_bare_same, asked)
            samples = interleaved(sides, 2 * self._options.repetitions if figure is HALF else 2)
            note = f"{asked:,.0f}/s; the maximal rates are {ours:,.0f} and {theirs:,.0f}"
            yield Result(figure=figure, pairs=pairs_of(samples["service"], samples["bare"], p99), note=note)
            if figure is HALF:
                pairs = pairs_of(samples["service"], samples["same"], p99)
                yield Result(figure=HALF_SAME, pairs=pairs, note=note)

    def _two(self) -> Iterator[Result]:
        """Neither is pinned here: with two CPUs the second process shares them with engine and load."""
        everywhere = set(CPUS)
        with (
            api(self._found, cpus=everywhere, checkout_ack="engine") as one,
            api(self._found, processes=2, cpus=everywhere, checkout_ack="engine") as two,
        ):
            sides = {}
            for name, served in (("one", one), ("two", two)):
                file = self._file(name, requests.to_service(served, self._who, self._adds))
                # Twice for two: which process answers is chance.
                for _ in served.processes:
                    self._warm(f"each-{name}", served, self._who)
                sides[name] = partial(self._closed, served, file)
            samples = interleaved(sides, max(3, self._options.repetitions // 2))
        pairs = pairs_of(samples["two"], samples["one"], rate)
        yield Result(figure=TWO, pairs=pairs, note=f"{len(CPUS)} CPUs for everything, nothing pinned")
