"""Owns `cartstore up`: everything of one data dir in the foreground, started in order and kept running.

Order of a start: the data dir's lock, the listening socket, engine and database side by side, migrations,
catalogs, API processes and worker. Nothing is started before what can be refused has been looked at.
Order of a stop: API, worker, then engine and database, which nobody uses any more by then.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import redis
from prometheus_client import multiprocess
from redis.backoff import NoBackoff
from redis.retry import Retry
from rich.table import Table

from cartstore import terminal
from cartstore.archive import migrate
from cartstore.datadir import DataDir
from cartstore.embedded.database import Database
from cartstore.embedded.disk_space import DiskSpace, check_space_for_new
from cartstore.embedded.parts import (
    announce,
    child_environment,
    pid_file_name,
    running_parts,
    stop_parts,
    until_ready,
)
from cartstore.embedded.process import Process, end_leftover_children
from cartstore.errors import CartError, ConfigurationError, StoreUnavailable
from cartstore.listening import listen
from cartstore.log_files import shorten_logs
from cartstore.redis.diagnosis import engine_away, replica_warning
from cartstore.settings import Settings
from cartstore.store import CartStore
from cartstore.tasks import end
from cartstore.urls import without_secret
from cartstore.watching import Watch
from cartstore.wiring import is_too_old, open_store

BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_MAX_SECONDS = 10.0
STEADY_SECONDS = 20.0
"""A child that stayed up this long had recovered: its next end counts as the first one again."""

WATCH_SECONDS = 0.02
READY_COMPLAINT_SECONDS = 30.0
STOP_SECONDS = 5.0
"""Patience with requests and jobs in flight. Then their process is killed; nothing acknowledged is lost."""

LOG_LOOK_SECONDS = 2.0

CLOSING_SECONDS = 2.0
"""Patience with the port of an `up` that was killed: its processes may be on their way out still."""

EXIT_REFUSED = 2
"""Of a child of ours, like the command line's own: the settings do not allow a start."""


_REFUSAL_PREFIX = "cartstore: "
"""Begins what a child of ours prints when it refuses its settings."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line of `up` says."""

    data_dir: Path
    host: str
    port: int
    """0: any free one."""
    processes: int
    catalogs: Sequence[Path] = ()
    """Imported at every start; none: the demo catalog, into an empty store on embedded servers only."""


def run_up(settings: Settings, options: Options) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP. Raises what prevents a start."""
    asyncio.run(_run_until_told(settings, options))


async def _run_until_told(settings: Settings, options: Options) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    work = asyncio.create_task(_Up(settings, options, told).run())
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    # Also in the middle of a start: on its way out the task stops what it has started so far.
    work.cancel()
    with suppress(asyncio.CancelledError, _Told):
        await work


class _Told(Exception):
    """We were told to stop, and the cancellation that said so was lost on its way."""


class _Up:
    """One run of `up`."""

    def __init__(self, settings: Settings, options: Options, told: asyncio.Event) -> None:
        self._settings = settings
        self._options = options
        self._told = told
        self._errors = terminal.complaints()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_ready = False
        self._watch = Watch(self._errors.print)

    async def run(self) -> None:
        """Start everything and keep it running until cancelled; stops it all on the way out."""
        options = self._options
        for catalog in options.catalogs:
            if not catalog.is_file():
                raise ConfigurationError(f"The catalog {catalog} is not a file.")
        async with AsyncExitStack() as stack:
            check_space_for_new(self._settings, options.data_dir)
            folder, listener = _claim(stack, options)
            space = DiskSpace(self._settings, folder.path, self._say)
            while True:
                await space.until_enough()
                try:
                    await self._serve(folder, listener, space)
                except (StoreUnavailable, OSError) as error:
                    # What was started has been stopped again.
                    if self._is_ready or not space.was_short():
                        raise
                    self._say(error.for_operators if isinstance(error, StoreUnavailable) else str(error))

    async def _serve(self, folder: DataDir, listener: socket.socket, space: DiskSpace) -> None:
        """Start everything on a data dir that is ours, and run until something ends it for good."""
        self._watch = Watch(self._errors.print)
        async with AsyncExitStack() as stack:
            folder.empty_metrics_folder()
            settings, parts = await stack.enter_async_context(
                running_parts(self._settings, folder, report=self._say)
            )
            await asyncio.to_thread(check_engine, settings.redis_url)
            self._go_on()
            await migrate(settings.database_url)
            self._go_on()
            stack.callback(folder.forget_services)
            announce(folder, settings)
            for part in parts:
                await stack.enter_async_context(self._kept(folder, pid_file_name(part), [part], space))
            sku = await self._import(settings)
            self._go_on()
            await stack.enter_async_context(self._short_logs(folder, settings))
            await stack.enter_async_context(self._watch.watching(settings))
            await stack.enter_async_context(self._worker(folder, settings))
            await stack.enter_async_context(self._api(folder, settings, listener))
            await self._until_ready(folder, listener)
            self._is_ready = True
            self._go_on()
            address = _address_of(listener)
            announce(folder, settings, address)
            self._tell(folder, settings, address, sku)
            await self._failed

    def _say(self, text: str) -> None:
        # Where it goes to may be a file on a full disk.
        with suppress(OSError):
            self._errors.print(text)

    def _go_on(self) -> None:
        """Raise when told to stop. Cancellation alone is not enough: it ends one `await`, and a library that
        was just cancelling a task of its own takes ours for the answer to that."""
        if self._told.is_set():
            raise _Told

    # --- catalogs ------------------------------------------------------------------------------

    async def _import(self, settings: Settings) -> str | None:
        """Import what the options say; gives a SKU to show in the first request."""
        async with open_store(settings, data_dir=self._options.data_dir) as store:
            for catalog in self._options.catalogs:
                try:
                    await terminal.import_with_report(store, catalog)
                except CartError as error:
                    raise ConfigurationError(f"{catalog}: {error.message}") from error
                except StoreUnavailable as error:
                    # On a full disk, say. What was imported before is sold meanwhile.
                    self._say(f"{catalog} was not imported: {error.message}")
            # Into what `up` made itself. A shop of somebody's own that is empty is to be filled by them.
            is_ours = not (self._settings.redis_url or self._settings.database_url)
            is_demo = is_ours and not self._settings.is_production and not self._options.catalogs
            if is_demo and await _first_sku(store) is None:
                with resources.as_file(resources.files("cartstore.demo") / "catalog.csv") as demo:
                    # Its prices are dollars, whatever the shop's own catalogs are in.
                    await terminal.import_with_report(store, demo, "The demo catalog", currency="USD")
            return await _first_sku(store)

    # --- children ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _short_logs(self, folder: DataDir, settings: Settings) -> AsyncIterator[None]:
        """Keep the logs of all children short, as long as they run."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(LOG_LOOK_SECONDS)
                try:
                    # A copy may take a while; the loop has children to look after.
                    await asyncio.to_thread(shorten_logs, folder.logs(), settings.log_file_mb * 1024 * 1024)
                except OSError as error:
                    self._say(f"The logs in {folder.path / 'log'} cannot be shortened: {error.strerror}.")

        task = asyncio.create_task(keep())
        try:
            yield
        finally:
            await end(task)

    @asynccontextmanager
    async def _worker(self, folder: DataDir, settings: Settings) -> AsyncIterator[None]:
        worker = Process(
            "The worker",
            folder.log_file("worker"),
            [sys.executable, "-m", "cartstore_workers"],
            self._watch.environment(child_environment(settings, folder.metrics_folder)),
        )
        self._watch.add("worker", worker)
        async with self._run(folder, "worker", [worker]):
            yield

    @asynccontextmanager
    async def _api(self, folder: DataDir, settings: Settings, listener: socket.socket) -> AsyncIterator[None]:
        descriptor = listener.fileno()
        log = folder.log_file("api")
        environment = self._watch.environment(child_environment(settings, folder.metrics_folder))
        # All stop at once: no other process takes over meanwhile.
        environment["CARTSTORE_DRAIN_SECONDS"] = "0"
        argv = [sys.executable, "-m", "cartstore_api", "--fd", str(descriptor)]
        processes = [
            Process("An API process", log, argv, environment, [descriptor])
            for _ in range(self._options.processes)
        ]
        for process in processes:
            self._watch.add("api", process)
        async with self._run(folder, "api", processes):
            yield

    @asynccontextmanager
    async def _run(self, folder: DataDir, name: str, processes: Sequence[Process]) -> AsyncIterator[None]:
        """Spawn processes, keep them running, and stop them at the end."""
        try:
            for process in processes:
                process.spawn()
            async with self._kept(folder, name, processes):
                yield
        finally:
            await stop_parts(processes, STOP_SECONDS)

    @asynccontextmanager
    async def _kept(
        self, folder: DataDir, name: str, processes: Sequence[Process], space: DiskSpace | None = None
    ) -> AsyncIterator[None]:
        """Start children again when they end, and keep `run/<name>.pid` true meanwhile."""

        def note() -> None:
            # A full disk must not keep a child from being started; the next change notes it again.
            with suppress(OSError):
                folder.write_pids(name, [process.pid for process in processes if process.pid])

        note()
        # No TaskGroup: it would wrap what the body raises, which is for the terminal as it is.
        keepers = [asyncio.create_task(self._keep(process, folder, note, space)) for process in processes]
        for keeper in keepers:
            keeper.add_done_callback(self._give_up)
        try:
            yield
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            folder.write_pids(name, [])

    def _give_up(self, keeper: asyncio.Task[None]) -> None:
        """End the run when a child is not looked after any more: it refused the settings, or a defect."""
        error = None if keeper.cancelled() else keeper.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def _keep(
        self, process: Process, folder: DataDir, note: Callable[[], None], space: DiskSpace | None = None
    ) -> None:
        now = asyncio.get_running_loop().time
        delay = BACKOFF_FIRST_SECONDS
        while True:
            began, pid = now(), process.pid
            while process.poll() is None:  # noqa: ASYNC110 (the kernel sets no event)
                await asyncio.sleep(WATCH_SECONDS)
            if process.poll() == EXIT_REFUSED and not self._is_ready:
                # Trying again would not help. A shop that was ready once goes on with its other processes.
                raise ConfigurationError(_last_words(process))
            if now() - began > STEADY_SECONDS:
                delay = BACKOFF_FIRST_SECONDS
            self._say(f"{_obituary(process)}. It is started again.")
            if pid is not None:
                # Its gauges must not be summed up for ever.
                multiprocess.mark_process_dead(pid, str(folder.metrics_folder))  # type: ignore[no-untyped-call]
            await asyncio.sleep(delay)
            delay = min(2 * delay, BACKOFF_MAX_SECONDS)
            try:
                note()
                await asyncio.to_thread(process.prepare)
                process.spawn()
                note()
                await until_ready(process)
                # A server may have needed several attempts.
                note()
            except StoreUnavailable as error:
                self._say(error.for_operators)
                if space is not None and isinstance(process, Database):
                    await space.until_enough_for_database()
            except OSError as error:
                # A full disk, above all. It is tried again until there is space.
                self._say(f"{process.name} cannot be started: {error.strerror or error}.")

    # --- ready ---------------------------------------------------------------------------------

    async def _until_ready(self, folder: DataDir, listener: socket.socket) -> None:
        now = asyncio.get_running_loop().time
        complain_at = now() + READY_COMPLAINT_SECONDS
        while (answer := await _ask_ready(listener)) is not None:
            self._go_on()
            if self._failed.done():
                self._failed.result()
            if now() > complain_at:
                self._say(f"Still not ready, see {folder.path / 'log'}: {answer}")
                complain_at = now() + READY_COMPLAINT_SECONDS
            await asyncio.sleep(WATCH_SECONDS)
        # The answer may have been waited for while a child refused the settings.
        if self._failed.done():
            self._failed.result()

    def _tell(self, folder: DataDir, settings: Settings, address: str, sku: str | None) -> None:
        out = terminal.output()
        table = Table(title="cartstore is ready", title_justify="left", show_header=False)
        for name, value in (
            ("API", f"{address}/v1"),
            ("API description", f"{address}/schema"),
            ("Health, metrics", f"{address}/health/ready  {address}/metrics"),
            ("Engine", without_secret(settings.redis_url)),
            ("Database", without_secret(settings.database_url)),
            ("Logs", str(folder.path / "log")),
            (
                "A token",
                shlex.join([_command(), "token", "--user", "ID", "--data-dir", str(self._options.data_dir)]),
            ),
        ):
            table.add_row(name, value)
        out.print(table)
        if sku is not None:
            body = msgspec.json.encode({"sku": sku, "quantity": 1}).decode()
            request = f"curl -s {address}/v1/cart/items -H 'Content-Type: application/json' -d '{body}'"
            out.print(f"\nPut something into a cart:\n\n  {request}\n", soft_wrap=True)
        out.print("Ctrl-C stops everything; the data stays.", soft_wrap=True)


def check_engine(url: str) -> None:
    """Refuse an engine that could lose what counters depend on.

    Raises ConfigurationError when it may evict keys or is too old, StoreUnavailable when it is away or a
    replica.
    """
    try:
        with redis.Redis.from_url(url, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
            # INFO and not CONFIG GET, which hosted servers often refuse.
            facts = client.info("server") | client.info("memory") | client.info("replication")
    except redis.RedisError as error:
        raise engine_away(url, error) from error
    except ValueError as error:
        # Its text quotes parts of the URL, which may be the password's.
        raise ConfigurationError("CARTSTORE_REDIS_URL is not a URL of an engine.") from error
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigurationError(
            f"The engine at {without_secret(url)} evicts keys (maxmemory-policy is {policy}), which would "
            "lose stock and holds. Set it to noeviction."
        )
    version = str(facts.get("redis_version", ""))
    if is_too_old(version):
        raise ConfigurationError(
            f"The engine at {without_secret(url)} is Redis {version}; 7.0 is the oldest."
        )
    warning = replica_warning(url, facts)
    if warning is not None:
        raise StoreUnavailable(warning)


def _claim(stack: AsyncExitStack, options: Options) -> tuple[DataDir, socket.socket]:
    """Take the data dir and the port. ConfigurationError when either is taken, and nothing is left behind.

    A data dir that exists is looked at first: a second `up` has both in common with the first, and the
    data dir is the more telling reason. A new one is made only once the port is ours.
    """
    folder, was_killed = None, False
    if options.data_dir.exists():
        folder = DataDir(options.data_dir)
        stack.enter_context(folder.lock())
        was_killed = _end_children_of_a_killed_one(folder)
    listener = stack.enter_context(_listen(options, CLOSING_SECONDS if was_killed else 0))
    if folder is None:
        folder = DataDir(options.data_dir)
        stack.enter_context(folder.lock())
    return folder, listener


def _end_children_of_a_killed_one(folder: DataDir) -> bool:
    """End API processes and workers that an earlier `up` left; whether one ended uncleanly."""
    run = folder.path / "run"
    had_api = end_leftover_children(run / "api.pid", "cartstore_api", STOP_SECONDS)
    had_worker = end_leftover_children(run / "worker.pid", "cartstore_workers", STOP_SECONDS)
    return had_api or had_worker


def _listen(options: Options, patience_seconds: float) -> socket.socket:
    """The listening socket. A process that was killed a moment ago may not have closed its own yet."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return listen(options.host, options.port)
        except ConfigurationError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(WATCH_SECONDS)


def _address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    # "All addresses" is nothing that can be asked.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _ask_ready(listener: socket.socket) -> str | None:
    """None when the API says that it is ready, else what it says."""
    parts = urlsplit(_address_of(listener))
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                request = f"GET /health/ready HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                answer = (await reader.read()).decode(errors="replace")
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return f"no answer ({type(error).__name__})"
    status, _, rest = answer.partition("\r\n")
    return None if " 200 " in f"{status} " else f"{status} {rest.partition(chr(13) + chr(10) * 2)[2]}".strip()


def _command() -> str:
    """How the command line is called from here: by its name, or from the virtual environment it is in."""
    if shutil.which("cartstore"):
        return "cartstore"
    own = Path(sys.executable).with_name("cartstore")
    return os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own)


def _obituary(process: Process) -> str:
    """How a child ended. Its log says more only when it ended by itself."""
    status = process.poll() or 0
    if status < 0:
        return f"{process.name} was ended by {signal.Signals(-status).name}"
    return process.complaint(f"ended with status {status}")


def _last_words(process: Process) -> str:
    """What a child said when it refused to start: several lines when several settings are wrong."""
    _, prefix, said = process.log_tail().rpartition(_REFUSAL_PREFIX)
    return said.rstrip() if prefix else process.complaint("refused to start")


async def _first_sku(store: CartStore) -> str | None:
    """The first variant that is on sale and in stock; None in an empty store."""
    products, _ = await store.list_products()
    levels = await store.stock_of(products)
    skus = [variant.sku for product in products if product.active for variant in product.variants]
    for sku in skus:
        level = levels.get(sku)
        if level is not None and (level.available is None or level.available > 0):
            return sku
    return skus[0] if skus else None
