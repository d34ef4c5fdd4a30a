"""The composition root: builds a CartStore from settings. The only place that knows every part."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cartstore import limits
from cartstore.affinity import Affinity
from cartstore.archive import Archive, migrate
from cartstore.archive.acknowledgement import AckMode, Acknowledgement
from cartstore.archive.drain import drain
from cartstore.archive.retention import DAY_MS
from cartstore.catalog.repository import CatalogRepository
from cartstore.embedded import embedded_parts
from cartstore.errors import ConfigurationError, StoreError, WritesRefused
from cartstore.failpoints import arm
from cartstore.layout import LAYOUT
from cartstore.model import Partition, owner_kind_of
from cartstore.payments import Gateway, SimulatedGateway
from cartstore.recovery.cut_off import CutOffScripts
from cartstore.recovery.gate import Recovery
from cartstore.recovery.rebuild import Progress, no_progress
from cartstore.redis.announcements import RedisAnnouncements
from cartstore.redis.audit import AuditedRedisEngine
from cartstore.redis.clients import open_client
from cartstore.redis.default_user import check_default_user
from cartstore.redis.diagnosis import durability_warning, engine_away, replica_warning
from cartstore.redis.keys import Keys
from cartstore.redis.memory import read_memory
from cartstore.redis.outbox import RedisOutbox
from cartstore.redis.replication import read_replication
from cartstore.redis.rights import check_rights, question
from cartstore.redis.scripts import load_scripts
from cartstore.redis.wire import WireCaller
from cartstore.settings import Settings, load_settings
from cartstore.store import CartStore, reach_of, terms_of
from cartstore.tasks import end

DATA_DIR_DEFAULT: Final = Path(".cartstore")

ENGINE_VERSION_MIN: Final = (7, 0)
"""The first that has functions."""

_VERSION: Final = re.compile(r"(\d+)(?:\.(\d+))?")

_parents: Final[list[AsyncExitStack]] = []
"""In a forked child, what only its parent may close. A generator that nobody keeps would be closed."""

_log = logging.getLogger("cartstore")


@asynccontextmanager
async def open_store(
    settings: Settings | None = None,
    *,
    data_dir: Path | str | None = None,
    doorbell: Callable[[], None] | None = None,
    on_recovery: Progress = no_progress,
) -> AsyncIterator[CartStore]:
    """A working store for the life of the context.

    Without settings the environment is read. Where they name no URL, the servers of `data_dir` are used, and
    started when none runs there. `doorbell` is called whenever an event waits to be archived; without one the
    store archives its own events in the background. `on_recovery` is told how far a recovery is, if opening
    the store needs one.

    The store belongs to this process and this event loop. A child that is forked from here may leave the
    context: nothing of its parent's is closed.

    Raises ConfigurationError and StoreUnavailable.
    """
    _check_types(settings, data_dir)
    affinity = Affinity()
    affinity.check()
    settings = settings or load_settings()
    arm(settings.failpoint)
    load_scripts()
    is_embedded = not settings.database_url
    async with AsyncExitStack() as stack:
        settings = await stack.enter_async_context(
            embedded_parts(settings, Path(data_dir) if data_dir else DATA_DIR_DEFAULT)
        )
        if is_embedded:
            await migrate(settings.database_url)
        partition = Partition(settings.namespace)
        archive = await Archive.open(settings.database_url, partition)
        stack.push_async_callback(archive.close)
        await archive.claim(namespace=settings.namespace, partitions=settings.partitions, key_layout=LAYOUT)
        # Asked for at once: checkouts that count against a purchase limit need it while the record is away.
        await archive.purchases.secret()
        catalog = CatalogRepository(archive.database, reach=reach_of(settings))

        client = open_client(settings.redis_url)
        stack.push_async_callback(client.aclose)
        keys = Keys(partition)
        with suppress(WritesRefused):
            # An engine that loads its data, or is busy, cannot tell yet; each connection asks again.
            await check_rights(client, keys, settings.redis_url)
        await _check_engine(client, settings)
        cut_off = CutOffScripts(client, keys)
        caller = await stack.enter_async_context(
            WireCaller.open(settings.redis_url, rights=question(keys), on_partly_applied=cut_off.note)
        )
        engine = AuditedRedisEngine(
            caller, partition, client, unpaid_kept_ms=settings.retention_unpaid_days * DAY_MS
        )
        outbox = RedisOutbox(engine, client)
        recovery = Recovery(
            client=client,
            caller=caller,
            engine=engine,
            outbox=outbox,
            archive=archive,
            catalog=catalog,
            lifetime_ms=_longest_lifetime_ms(settings),
            partition=partition,
            terms_of=lambda cart_id: terms_of(settings, owner_kind_of(cart_id)),
        )
        await _opened(recovery, on_recovery)

        archives_itself = doorbell is None
        if doorbell is None:
            doorbell = await stack.enter_async_context(_own_drain(archive, outbox, affinity))
        acknowledgement = Acknowledgement(
            await _ack_mode(settings, client),
            archive,
            timeout_ms=settings.ack_timeout_ms,
            ring=doorbell,
            announcements=RedisAnnouncements(client, engine.keys),
        )
        await stack.enter_async_context(acknowledgement.listening())
        store = CartStore(
            settings=settings,
            partition=partition,
            engine=engine,
            archive=archive,
            catalog=catalog,
            outbox=outbox,
            acknowledgement=acknowledgement,
            gateways=_gateways(settings),
            recovery=recovery,
            engine_memory=partial(read_memory, client),
            archives_itself=archives_itself,
        )
        watching = asyncio.create_task(cut_off.watch(store))
        stack.push_async_callback(end, watching)
        try:
            yield store
        finally:
            if affinity.is_lost:
                _parents.append(stack.pop_all())


def _check_types(settings: object, data_dir: object) -> None:
    for name, value, kinds in (("settings", settings, (Settings,)), ("data_dir", data_dir, (str, Path))):
        if value is not None and not isinstance(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigurationError(f"{name} must be {wanted}, not {type(value).__name__}.")


async def _opened(recovery: Recovery, on_progress: Progress) -> None:
    """A store whose gate cannot be opened yet still opens: reads of the record go on, readiness tells why."""
    try:
        await recovery.recover(on_progress)
    except StoreError as error:
        _log.warning("the store opens fenced: %s", error)


def _gateways(settings: Settings) -> dict[str, Gateway]:
    if settings.is_production:
        return {}
    # Without a secret nobody can know one: webhooks are then refused, as they should be.
    gateway = SimulatedGateway(webhook_secret=settings.jwt_secret or secrets.token_hex(16))
    return {gateway.name: gateway}


def _longest_lifetime_ms(settings: Settings) -> int:
    longest = max(settings.hold_cap_seconds, settings.payment_window_seconds) * 1_000
    return min(longest, limits.HOLD_LIFETIME_MS_MAX)


async def _check_engine(client: Redis, settings: Settings) -> None:
    """Raise ConfigurationError for an engine that is too old, that would forget carts when it is full, or
    whose word would not hold after a failover."""
    try:
        server: dict[str, Any] = await client.info("server")
        memory: dict[str, Any] = await client.info("memory")
        persistence: dict[str, Any] = await client.info("persistence")
        role: dict[str, Any] = await client.info("replication")
    except (RedisError, OSError, TimeoutError) as error:
        raise engine_away(settings.redis_url, error) from error
    version = str(server.get("redis_version", ""))
    if is_too_old(version):
        raise ConfigurationError(f"The engine is Redis {version}; 7.0 is the oldest.")
    await check_default_user(client, server, _numbers_of(version))
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigurationError(
            f"The engine's maxmemory-policy is {policy}: it would throw carts and stock away when memory is "
            "full. Set it to noeviction."
        )
    # Reads of the record go on, and so does this process, when the primary is back behind the same name.
    if (warning := replica_warning(settings.redis_url, role)) is not None:
        _log.warning(warning)
    if settings.checkout_ack == "engine":
        warning = durability_warning(persistence, await _appendfsync(client))
        if warning is not None:
            _log.warning(warning)
    if not memory.get("maxmemory", 0):
        _log.warning(
            "The engine has no maxmemory: it grows until the host kills it. With a bound it would refuse new "
            "carts with STORE_FULL. Set one."
        )
    replication = await read_replication(client)
    if replication.replicas and not replication.stops_alone:
        text = (
            f"The engine has replicas, but min-replicas-to-write is {replication.replicas_min} and "
            f"min-replicas-max-lag {replication.lag_seconds_max}: cut off from them it would go on selling "
            "what the promoted one sells as well. Set them to 1 and 10."
        )
        if settings.checkout_ack == "engine":
            raise ConfigurationError(text)
        # Checkouts are not acknowledged before the record has them, and it takes none of an old primary.
        _log.warning(text)


def is_too_old(version: str) -> bool:
    """Whether an engine of this version cannot keep what we call; one that tells nothing readable is not."""
    numbers = _numbers_of(version)
    return bool(numbers) and numbers < ENGINE_VERSION_MIN


def _numbers_of(version: str) -> tuple[int, ...]:
    """Major and minor; empty when the text is no version."""
    numbers = _VERSION.match(version)
    return (int(numbers[1]), int(numbers[2] or 0)) if numbers else ()


async def _ack_mode(settings: Settings, client: Redis) -> AckMode:
    """The setting, or `engine` where its persistence can carry an acknowledgement, else `archived`."""
    if settings.checkout_ack:
        return settings.checkout_ack
    try:
        persistence: dict[str, Any] = await client.info("persistence")
        replication: dict[str, Any] = await client.info("replication")
    except (RedisError, OSError, TimeoutError):
        return "archived"
    is_durable = persistence.get("aof_enabled") == 1 and await _appendfsync(client) == "always"
    has_replica = replication.get("connected_slaves", 0) > 0 or replication.get("role") != "master"
    return "engine" if is_durable and not has_replica else "archived"


async def _appendfsync(client: Redis) -> str | None:
    """None where it cannot be known: managed engines forbid CONFIG. What cannot be known is not relied on."""
    try:
        found: dict[Any, Any] = await client.config_get("appendfsync")
    except (RedisError, OSError, TimeoutError):
        return None
    return found.get("appendfsync")


@asynccontextmanager
async def _own_drain(
    archive: Archive, outbox: RedisOutbox, affinity: Affinity
) -> AsyncIterator[Callable[[], None]]:
    """A doorbell that is answered here, in the background; once more before the context ends."""
    rung = asyncio.Event()

    async def answer() -> None:
        with suppress(StoreError):
            await drain(archive, outbox)

    async def answer_each() -> None:
        while True:
            await rung.wait()
            rung.clear()
            await answer()

    task = asyncio.create_task(answer_each())
    try:
        yield rung.set
    finally:
        # In a forked child the end of the loop ends this generator as well.
        if not affinity.is_lost:
            await end(task)
            await answer()
