"""A store that was open before a fork, and one that another thread's event loop uses: every way to the engine
and to the record is refused there, and the parent goes on as if there was no child."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import redis
import uvloop
from cartstore_api.doorbell import Doorbell as ApiDoorbell
from cartstore_workers.queues import Doorbell as WorkersDoorbell
from cartstore_workers.queues import connect_queue, open_queue
from forking import told_by_child

from cartstore import CartStore, Owner, Product, Settings, Variant, open_store
from cartstore.datadir import DataDir
from cartstore.embedded import Database, embedded_parts, parts
from cartstore.errors import OtherEventLoop, OtherProcess
from cartstore.model import Guard, PutItem
from cartstore.redis.gate import read_gate

ANN = Owner("user", "ann")
TEE = Product(id="tee", title="Tee", currency="USD", variants=(Variant(sku="tee-m", price_minor=1999),))
VERBS = [
    name
    for name, member in inspect.getmembers(CartStore, inspect.iscoroutinefunction)
    if not name.startswith("_")
]
SAMPLES: dict[Any, Any] = {
    Owner: ANN,
    Guard: Guard(),
    Product: TEE,
    Variant: TEE.variants[0],
    str: "tee-m",
    int: 1,
    bool: False,
    Sequence: [PutItem(sku="tee-m", quantity=1)],
    Mapping: {},
    Iterable: [],
    Path: Path("catalog.csv"),
}


def settings_of(redis_url: str, database_url: str) -> Settings:
    return Settings(redis_url=redis_url, database_url=database_url, jwt_secret="x" * 40)


def call(store: CartStore, verb: str) -> Any:
    """The coroutine of a verb with some arguments of the right types."""
    method = getattr(store, verb)
    hints = get_type_hints(method)
    wanted = [
        name
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.default is parameter.empty
    ]
    return method(**{name: _sample(hints[name]) for name in wanted})


def _sample(hint: Any) -> Any:
    kind = get_origin(hint) or hint
    if kind in SAMPLES:
        return SAMPLES[kind]
    options = get_args(hint)
    if kind is Literal:
        return options[0]
    return _sample(options[0])


async def raised_by(act: Callable[[], Any]) -> str:
    try:
        await act()
    except Exception as error:
        return type(error).__name__
    return "nothing"


class Shop:
    """An open store of one loop, and what the servers know of its connections."""

    def __init__(self, runner: asyncio.Runner, settings: Settings, database: Database) -> None:
        self.run = runner.run
        self._settings = settings
        self._database = database
        self.context = open_store(settings)
        self.store = self.run(self.context.__aenter__())
        self.run(self.store.put_product(TEE))
        self.run(self.store.adjust_stock("tee-m", 10, reason="delivery", reference="1"))

    def connections(self) -> tuple[set[int], set[str]]:
        """By the engine's and by the database's own numbers."""
        with redis.Redis.from_url(self._settings.redis_url) as client:
            engine = {int(entry["id"]) for entry in client.client_list() if entry["cmd"] != "client|list"}
        name = self._settings.database_url.split("/")[3].split("?")[0]
        pids = self._database.execute(f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}'")
        return engine, set(pids.split())

    async def use(self) -> int:
        """Everything that has connections: the wire, redis-py and PostgreSQL."""
        result = await self.store.add_line(ANN, "tee-m")
        await self.store.get_product("tee")
        await self.store.drain_outbox()
        return result.summary.total_items


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def shop(
    request: pytest.FixtureRequest, redis_url: str, database_url: str, database: Database
) -> Iterator[Shop]:
    with opened(request.param, settings_of(redis_url, database_url), database) as shop:
        yield shop


@contextmanager
def opened(new_loop: Any, settings: Settings, database: Database) -> Iterator[Shop]:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        shop = Shop(runner, settings, database)
        yield shop
        shop.run(shop.context.__aexit__(None, None, None))


@pytest.mark.parametrize("is_same_loop", [True, False])
def test_child_reaches_nothing_and_the_parent_notices_nothing(shop: Shop, is_same_loop: bool) -> None:
    """As after gunicorn --preload and Celery's prefork: the child may even go on with the loop, in which the
    parent's timers and sockets are."""
    assert shop.run(shop.use()) == 1
    before, gate = (
        shop.connections(),
        shop.run(read_gate(shop.store._recovery._client, shop.store.engine.keys)),
    )
    store, engine, catalog, recovery = shop.store, shop.store.engine, shop.store.catalog, shop.store._recovery
    archive, outbox = shop.store.archive, shop.store._outbox

    async def try_all() -> str:
        told = {await raised_by(lambda verb=verb: call(store, verb)) for verb in VERBS}
        for act in (
            lambda: engine.read_stock(["tee-m"]),
            lambda: engine.scan_skus(0, 1),
            lambda: catalog.get_product("tee"),
            lambda: archive.cursor(),
            lambda: outbox.read(gate, 1),
            recovery.gate,
        ):
            told.add(await raised_by(act))
        # Longer than the connection waits before it asks for the engine's identity again.
        await asyncio.sleep(1.2 if is_same_loop else 0)
        await shop.context.__aexit__(None, None, None)
        # As drivers and the garbage collector do it.
        for connection in recovery._client.connection_pool._available_connections:
            if connection._writer is not None:
                connection._writer.write(b"*1\r\n$4\r\nQUIT\r\n")
                connection._writer.close()
        return ",".join(told)

    def child() -> str:
        told = (shop.run if is_same_loop else asyncio.run)(try_all())
        gc.collect()
        return told

    assert told_by_child(child) == OtherProcess.__name__

    assert shop.run(shop.use()) == 2
    # Those that were there are there still; a busy parent may have opened one more meanwhile.
    assert all(its <= now for its, now in zip(before, shop.connections(), strict=True))
    after = shop.run(read_gate(shop.store._recovery._client, shop.store.engine.keys))
    assert (after.epoch, after.state, after.change) == (gate.epoch, "open", gate.change + 1)


def test_verb_raises_before_it_is_awaited_when_the_loop_was_a_thread_of_the_parent(shop: Shop) -> None:
    """`run_coroutine_threadsafe` would wait for ever for a thread that the child does not have."""
    store = shop.store

    def child() -> str:
        try:
            store.read_cart(ANN)
        except OtherProcess as error:
            return str(error)
        return "a coroutine"

    assert told_by_child(child) == "The store was opened before a fork; open a store in each process."


def test_child_may_open_a_store_of_its_own(shop: Shop) -> None:
    async def buy() -> int:
        async with open_store(shop._settings) as own:
            return (await own.add_line(ANN, "tee-m", 3)).summary.total_items

    assert told_by_child(lambda: asyncio.run(buy())) == "3"
    assert shop.run(shop.use()) == 4


async def test_every_verb_raises_when_another_loop_uses_the_store(redis_url: str, database_url: str) -> None:
    async with open_store(settings_of(redis_url, database_url)) as store:
        await store.put_product(TEE)
        await store.variant_of("tee-m")

        async def elsewhere() -> dict[str, str]:
            return {verb: await raised_by(lambda verb=verb: call(store, verb)) for verb in VERBS}

        told = await asyncio.to_thread(lambda: asyncio.run(elsewhere()))

        assert told == dict.fromkeys(VERBS, OtherEventLoop.__name__)
        assert (await store.get_product("tee")).title == "Tee"


def test_parent_goes_on_when_children_merely_exit(redis_url: str, database_url: str) -> None:
    """A whole program, since the end of the interpreter in a child is what might say goodbye."""
    program = """
        import asyncio, os, sys, multiprocessing
        from cartstore import Owner, Settings, open_store

        async def main(settings):
            async with open_store(settings) as store:
                before = await used(store)
                child = multiprocessing.get_context("fork").Process(target=print, args=("multiprocessing",))
                child.start()
                child.join()
                if os.fork() == 0:
                    # Through the ends of the context, of the loop and of the interpreter.
                    sys.exit(3)
                assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
                print("again", (await used(store)) == before)

        async def used(store):
            await store.read_cart(Owner("user", "ann"))
            clients = await store._recovery._client.client_list()
            async with store.archive.database.reading() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
            return sorted(client["id"] for client in clients), driver.get_server_pid()

        asyncio.run(main(Settings(redis_url=sys.argv[1], database_url=sys.argv[2], jwt_secret="x" * 40)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), redis_url, database_url],
        capture_output=True,
        text=True,
        timeout=120,
        # Coverage, which starts in every child, would write to stderr what it did not see there.
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["multiprocessing", "again True"]


def test_child_that_leaves_the_context_keeps_the_servers_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "missing_parts", lambda settings, folder: [])
    folder = DataDir(tmp_path / "shop")
    with asyncio.Runner() as runner:
        context = embedded_parts(Settings(redis_url="redis://127.0.0.1:1/0"), folder.path)
        runner.run(context.__aenter__())
        running = folder.services()
        assert running is not None

        told_by_child(lambda: runner.run(context.__aexit__(None, None, None)))

        assert folder.services() == running
        runner.run(context.__aexit__(None, None, None))
        assert folder.services() is None


# --- clients of threads ---------------------------------------------------------------------------------


def test_queue_s_clients_refuse_in_a_child_and_the_parent_goes_on(redis_url: str) -> None:
    settings = settings_of(redis_url, "")
    connection = connect_queue(settings)
    queue = open_queue(connection, "main")
    assert queue.count == 0
    with ApiDoorbell(settings) as ring:
        ring()
        _until(lambda: queue.count == 1)

        def act() -> object:
            told = [
                _refused(lambda: queue.count),
                _refused(lambda: WorkersDoorbell(connection, "main").ring("recover")),
                _refused(ring),
            ]
            # The end of the contexts that the child is a copy of.
            ring.__exit__(None, None, None)
            connection.close()
            del ring._connection
            gc.collect()
            return told

        assert told_by_child(act) == str(["OtherProcess"] * 3)

        queue.empty()
        ring()
        _until(lambda: queue.count == 1)
    assert WorkersDoorbell(connection, "main").ring("recover")
    connection.close()


def _refused(act: Callable[[], object]) -> str:
    try:
        return f"answered {act()}"
    except OtherProcess:
        return "OtherProcess"


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
