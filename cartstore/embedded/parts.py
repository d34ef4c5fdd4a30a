"""Owns what the servers of one data dir are and how a program gets to them: attach, or start its own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec

from cartstore.datadir import DataDir, Services
from cartstore.embedded.database import Database
from cartstore.embedded.disk import DiskGuard, watched_disk
from cartstore.embedded.disk_space import check_space_for_new
from cartstore.embedded.engine import Engine
from cartstore.embedded.memory import engine_memory_bytes
from cartstore.embedded.process import POLL_SECONDS, Process
from cartstore.errors import ConfigurationError, StoreUnavailable
from cartstore.problems import variable_of
from cartstore.settings import Settings
from cartstore.urls import QUEUE_DATABASE

START_SECONDS = 60.0
"""Patience with a server that starts: it may have a long log to read after a crash."""

STOP_SECONDS = 10.0

_log = logging.getLogger("cartstore.disk")


def resolve(data_dir: Path, settings: Settings) -> Settings:
    """Fill the URLs and the token secret that `settings` leaves empty, from what runs on `data_dir`.

    ConfigurationError when a URL is missing and nothing runs there. Starts nothing.
    """
    if settings.redis_url and settings.database_url and settings.queue_url and settings.jwt_secret:
        return settings
    if settings.redis_url and settings.database_url:
        # The folder is there for the secret only: with everything set, nothing is written anywhere.
        return _completed(settings, None if settings.jwt_secret else DataDir(data_dir), None)
    folder = DataDir(data_dir, create=False)
    services = folder.services()
    if services is None:
        raise ConfigurationError(
            f"Nothing runs on the data dir {data_dir}: start `cartstore up --data-dir {data_dir}`, or set "
            "CARTSTORE_REDIS_URL and CARTSTORE_DATABASE_URL."
        )
    return _completed(settings, folder, services)


@asynccontextmanager
async def embedded_parts(settings: Settings, data_dir: Path) -> AsyncIterator[Settings]:
    """Give complete settings: as they are when both URLs are set, else with servers of `data_dir`.

    Attaches to servers that run there already, an `up`'s for instance; else starts the missing ones for
    the life of the context. Raises ConfigurationError or StoreUnavailable.
    """
    if settings.redis_url and settings.database_url:
        yield settings
        return
    folder = DataDir(data_dir)
    with ExitStack() as stack:
        services = await _lock_or_services(folder, stack)
        if services is not None:
            yield _completed(settings, folder, services)
            return
        check_space_for_new(settings, folder.path)
        async with running_parts(settings, folder) as (complete, parts):
            for part in parts:
                folder.write_pids(pid_file_name(part), [part.pid] if part.pid else [])
            announce(folder, complete)
            pid = os.getpid()
            try:
                yield complete
            finally:
                if os.getpid() == pid:
                    folder.forget_services()
                    for part in parts:
                        folder.write_pids(pid_file_name(part), [])


@asynccontextmanager
async def running_parts(
    settings: Settings, folder: DataDir, *, report: Callable[[str], None] = _log.warning
) -> AsyncIterator[tuple[Settings, Sequence[Engine | Database]]]:
    """Run the servers whose URLs are empty, and watch their disk; only for the holder of the data dir's lock.
    `report` is told when the disk is full and when it is not any more."""
    parts, pid = missing_parts(settings, folder), os.getpid()
    try:
        await start_parts(parts)
        complete = with_parts(settings, folder, parts)
        if not parts:
            # No server of ours is on this disk.
            yield complete, parts
            return
        async with watched_disk(DiskGuard(complete, folder.path, parts, report=report)):
            yield complete, parts
    finally:
        # A forked child that leaves this context must not take the servers from its parent.
        if os.getpid() == pid:
            await stop_parts(parts)
            folder.drop_socket_folder()


def missing_parts(settings: Settings, folder: DataDir) -> list[Engine | Database]:
    """The servers that `settings` names no URL of, not started."""
    parts: list[Engine | Database] = []
    sockets = folder.socket_folder() if not (settings.redis_url and settings.database_url) else folder.path
    if not settings.redis_url:
        parts.append(
            Engine(
                folder.path / "engine",
                password=folder.secrets().engine_password,
                socket_folder=sockets,
                log=folder.log_file("engine"),
                memory_bytes=engine_memory_bytes(settings.engine_memory_mb),
            )
        )
    if not settings.database_url:
        parts.append(
            Database(folder.path / "postgres", socket_folder=sockets, log=folder.log_file("postgres"))
        )
    return parts


def with_parts(settings: Settings, folder: DataDir, parts: Iterable[Engine | Database]) -> Settings:
    """The settings with these servers' URLs, and everything else that was empty."""
    for part in parts:
        name = "redis_url" if isinstance(part, Engine) else "database_url"
        settings = msgspec.structs.replace(settings, **{name: part.url()})
    return _completed(settings, folder, None)


def child_environment(settings: Settings, metrics_folder: Path | None = None) -> Mapping[str, str]:
    """Ours, with the URLs and secrets of complete settings; command lines are public, this is not."""
    environment = dict(os.environ)
    for name in ("redis_url", "database_url", "queue_url", "jwt_secret"):
        environment[variable_of(name)] = getattr(settings, name)
    if metrics_folder is not None:
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_folder)
    return environment


def announce(folder: DataDir, settings: Settings, api: str = "") -> None:
    """Let other programs find what these complete settings name."""
    folder.announce(
        Services(
            pid=os.getpid(),
            redis_url=settings.redis_url,
            queue_url=settings.queue_url,
            database_url=settings.database_url,
            api=api,
        )
    )


async def start_parts(parts: Sequence[Process]) -> None:
    """Start servers side by side and wait until all are ready. StoreUnavailable says which is not.

    The caller stops them, also after a failure.
    """
    await asyncio.gather(*(asyncio.to_thread(part.prepare) for part in parts))
    # In this thread, not in the pool's: a child gets its stop signal when its parent thread ends.
    for part in parts:
        part.spawn()
    await asyncio.gather(*(until_ready(part) for part in parts))


async def until_ready(part: Process, timeout_seconds: float = START_SECONDS) -> None:
    """StoreUnavailable when the child ends instead, and cannot be repaired, or takes too long."""
    while True:
        try:
            async with asyncio.timeout(timeout_seconds):
                while not part.ready():  # noqa: ASYNC110 (nothing in this process could set an event)
                    await asyncio.sleep(POLL_SECONDS)
                return
        except TimeoutError as error:
            raise StoreUnavailable(part.complaint(f"was not ready within {timeout_seconds:g} s")) from error
        except StoreUnavailable:
            if not await asyncio.to_thread(part.repair):
                raise
        # In this thread: see start_parts.
        part.spawn()


async def stop_parts(parts: Sequence[Process], timeout_seconds: float = STOP_SECONDS) -> None:
    """Stop processes side by side; those that do not end in time are killed."""
    await asyncio.gather(*(asyncio.to_thread(part.stop, timeout_seconds) for part in parts))


def pid_file_name(part: Process) -> str:
    """The name of a server's pid file in `run/`."""
    return "engine" if isinstance(part, Engine) else "postgres"


def queue_url_beside(redis_url: str) -> str:
    """The URL of RQ's database on the engine's own server."""
    parts = urlsplit(redis_url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != "db"]
    if parts.scheme == "unix":
        query.append(("db", str(QUEUE_DATABASE)))
    path = parts.path if parts.scheme == "unix" else f"/{QUEUE_DATABASE}"
    # Not urlunsplit, which takes the slashes from a unix URL.
    url = f"{parts.scheme}://{parts.netloc}{path}"
    return f"{url}?{urlencode(query, quote_via=quote)}" if query else url


async def _lock_or_services(folder: DataDir, stack: ExitStack) -> Services | None:
    """Take the lock (None), or find what its holder runs. ConfigurationError when neither comes about."""
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        services = folder.services()
        if services is not None:
            return services
        if not folder.is_locked() or asyncio.get_running_loop().time() > deadline:
            stack.enter_context(folder.lock())
            return None
        # The holder is starting its servers, or stopping them.
        await asyncio.sleep(POLL_SECONDS)


def _completed(settings: Settings, folder: DataDir | None, services: Services | None) -> Settings:
    """`folder`: whose secret is taken where the settings have none."""
    if services is not None:
        settings = msgspec.structs.replace(
            settings,
            redis_url=settings.redis_url or services.redis_url,
            database_url=settings.database_url or services.database_url,
            queue_url=settings.queue_url or ("" if settings.redis_url else services.queue_url),
        )
    secret = settings.jwt_secret
    if not secret and folder is not None:
        secret = folder.secrets().jwt_secret
    return msgspec.structs.replace(
        settings, queue_url=settings.queue_url or queue_url_beside(settings.redis_url), jwt_secret=secret
    )
