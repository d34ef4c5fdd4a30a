"""Makes the text fixtures of a key layout: a shop that the code of that layout has filled.

    PYTHONPATH=tests python -m upgrade.make      from a checkout of the last commit of that layout

Writes into the folder of this file, for `test_take_over.py`:

    BASE             the commit
    engine.jsonl     commands that give an engine the keys of that shop, one JSON list a line
    record.sql       statements that give migrated, empty tables its rows, one a line
    scripts.json     per script: the parts of its text (two newlines between them, one at the end), and
                     keys and arguments of one call, the identity left out
    statements.json  per job: statements that write the cursor's row, with their parameters
    tokens.json      guest tokens with their cart ids, and the secret that signs them
    at.json          the engine's time (ms), and what the shop holds

Bytes that are no text are spelled as Latin-1. Run again for the next layout, by the code before it changes.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from cartstore_api.callers import Callers, _guest_of
from property.shop_with_record import ShopWithRecord, open_shop_with_record
from redis.asyncio import Redis
from sqlalchemy import event, text

from cartstore import Owner, Product, Variant
from cartstore.archive import migrate
from cartstore.archive.quarantine import put_aside
from cartstore.archive.tables import metadata
from cartstore.embedded import Database, Engine
from cartstore.errors import CartStoreError
from cartstore.layout import LAYOUT
from cartstore.model import Event, Guard, Position, PutItem
from cartstore.recovery.reconcile import Reconciler
from cartstore.redis import scripts
from cartstore.redis.caller import ClientCaller, PooledCaller
from cartstore.settings import Settings

HERE = Path(__file__).parent
MINUTE_MS = 60_000
ANN, BEN, EVE = Owner("user", "ann"), Owner("user", "ben"), Owner("user", "eve")
GUS, GIL, DAN = Owner("guest", "gus"), Owner("guest", "gil"), Owner("guest", "dan")

_calls: dict[str, tuple[list[Any], list[Any]]] = {}
_statements: dict[str, list[tuple[str, list[Any]]]] = {}
_job = ""


def _record_calls() -> None:
    for caller in (PooledCaller, ClientCaller):
        _record_calls_of(caller)


def _record_calls_of(caller: Any) -> None:
    inner = caller.call

    async def call(self: Any, its: Any, keys: Any, args: Any) -> Any:
        _calls.setdefault(its.name, (list(keys), list(args)))
        return await inner(self, its, keys, args)

    caller.call = call


def _call_of(name: str) -> tuple[list[Any], list[Any]]:
    """Keys and arguments of a call. Of one that was not recorded: a refusal comes before any other argument
    is looked at."""
    gate = "{main:0}:gate"
    fallbacks: dict[str, tuple[list[Any], list[Any]]] = {
        "gate_mark": ([gate], ["low"]),
        "process_beat": ([gate, "{main:0}:beats"], ["", "nonce", "worker:host:1:run", "{}", 300_000, 100]),
    }
    return (
        _calls.get(name) or fallbacks.get(name) or ([gate, "{main:0}:cart:u.ann"], ["", "nonce", *["1"] * 9])
    )


def _record_statements(shop: ShopWithRecord) -> None:
    @event.listens_for(shop.store.archive.database._engine.sync_engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        if _job and "outbox_cursor" in sql and sql.startswith("UPDATE"):
            _statements.setdefault(_job, []).append((sql, list(parameters)))


async def _fill(shop: ShopWithRecord) -> None:
    """Carts, holds, orders in every state; the last of them is neither drained nor snapshotted."""
    global _job
    store, clock = shop.store, shop.clock
    await store.put_product(
        Product(
            id="tee",
            title="Tee",
            currency="USD",
            options=("Size",),
            seller="north",
            variants=tuple(Variant(sku=sku, options={"Size": sku}, price_minor=1_000) for sku in "abcd"),
        )
    )
    await store.put_product(
        Product(
            id="mug",
            title="Mug",
            currency="USD",
            seller="south",
            variants=(Variant(sku="mug", price_minor=550, policy="backorder"),),
        )
    )
    await store.put_product(
        Product(
            id="pdf",
            title="Guide",
            currency="USD",
            seller="south",
            variants=(Variant(sku="pdf", price_minor=300, policy="untracked"),),
        )
    )
    for sku in ("a", "b", "c", "mug"):
        await store.adjust_stock(sku, 20, reason="delivery", reference="1")
    await store.adjust_stock("d", 1, reason="delivery", reference="1")

    async def check_out(owner: Owner, *skus: str) -> Any:
        for sku in skus:
            await store.add_line(owner, sku, 1)
        key = f"key {owner.id} {clock.now_ms}"
        return await store.begin_checkout(
            owner, idempotency_key=key, gateway="simulated", payment_method="card"
        )

    paid = await check_out(EVE, "a", "mug")
    await store.apply_verdict(paid.payment.payment_id, "failed")
    await store.apply_verdict(paid.payment.payment_id, "succeeded")
    clock.now_ms += 1_000
    cancelled = await check_out(BEN, "a")
    await store.cancel_order(cancelled.orders[0].order_id, BEN)
    await store.apply_verdict(cancelled.payment.payment_id, "succeeded")
    clock.now_ms += 1_000
    refunded = await check_out(EVE, "d")
    await store.cancel_order(refunded.orders[0].order_id, EVE)
    await check_out(BEN, "d")
    await store.apply_verdict(refunded.payment.payment_id, "succeeded")
    await store.close_refund(refunded.orders[0].order_id)
    expired = await check_out(GIL, "b")
    clock.now_ms = expired.payment.expires_at_ms
    await store.expire_payments(10)
    await check_out(GUS, "c", "pdf")

    await store.add_line(ANN, "a", 2, guard=Guard(idempotency_key="ring"))
    await store.add_line(ANN, "b", 1, properties={"engraving": "ä \N{SNOWMAN} {}"})
    clock.now_ms += MINUTE_MS
    await store.add_line(DAN, "b", 3)
    _job = "drain"
    await store.drain_outbox()
    _job = "snapshot"
    await store.snapshot_carts()
    _job = ""
    await store.freeze_skus(["c"], "An operator looks at it.")
    async with store.archive.database.transaction() as connection:
        await put_aside(
            connection,
            store.partition,
            Event(position=Position(1, 1), nonce="other", type="odd", at_ms=0, body_json="{}"),
            "Of another history.",
        )
        await connection.execute(text("INSERT INTO retention (partition) VALUES (0)"))

    # What waits: neither drained nor snapshotted.
    clock.now_ms += MINUTE_MS
    await store.set_quantity(ANN, "a", 4)
    await store.add_line(ANN, "mug", 2)
    await store.add_line(BEN, "pdf", 5)
    waiting = await check_out(DAN, "a")
    await store.apply_verdict(waiting.payment.payment_id, "succeeded")
    await store.add_line(DAN, "a", 1)
    await store.adjust_stock("b", -1, reason="damaged", reference="2")


async def _use_the_rest(shop: ShopWithRecord) -> None:
    """Call what the fixtures do not need, so that the call of every script is recorded."""
    global _job
    store, clock = shop.store, shop.clock
    await store.put_lines(EVE, (PutItem(sku="a", quantity=1), PutItem(sku="b", quantity=1)))
    await store.validate_cart(EVE)
    await store.extend_holds(EVE)
    await store.accept_changes(EVE)
    await store.read_summary(EVE)
    await store.remove_line(EVE, "a")
    await store.clear_cart(EVE)
    await store.read_stock("a")
    await store.list_checkouts(EVE)
    with suppress(CartStoreError):
        await store.find_checkout(EVE, "none")
    await store.unfreeze_sku("c")
    await store.release_due(10)
    await Reconciler(store, confirm_seconds=0.01).run(repair=True)
    _job = "reject"
    cursor, nonce = await store.archive.cursor()
    await store.archive.reject_event(
        Event(
            position=Position(cursor.epoch, cursor.seq + 1),
            nonce="odd",
            type="odd",
            at_ms=0,
            body_json="{}",
            previous=f"{cursor} {nonce}",
        ),
        "For its statements.",
    )
    clock.now_ms += MINUTE_MS
    await shop.client.hset("{main:0}:gate", "identity", "an engine that is gone")
    _job = "recover"
    await store.recover()
    _job = "rebuild"
    await store.recover(rebuilds=True)
    _job = ""


async def _commands(client: Redis[bytes]) -> list[list[str]]:
    """Commands that make every key again."""
    found: list[list[Any]] = []
    for key in sorted([key async for key in client.scan_iter()]):
        kind = (await client.type(key)).decode()
        if kind == "hash":
            parts = [part for pair in sorted((await client.hgetall(key)).items()) for part in pair]
            found.append([b"HSET", key, *parts])
        elif kind == "zset":
            scored = await client.zrange(key, 0, -1, withscores=True)
            found.append([b"ZADD", key, *(p for member, score in scored for p in (b"%d" % score, member))])
        elif kind == "set":
            found.append([b"SADD", key, *sorted(await client.smembers(key))])
        elif kind == "stream":
            for position, fields in await client.xrange(key):
                found.append([b"XADD", key, position, *(p for pair in fields.items() for p in pair)])
        else:
            raise ValueError(f"{key!r} is a {kind}")
        ttl_ms = await client.pttl(key)
        if ttl_ms > 0:
            found.append([b"PEXPIRE", key, b"%d" % ttl_ms])
    return [[part.decode("latin-1") for part in command] for command in found]


async def _inserts(shop: ShopWithRecord) -> list[str]:
    lines = ["DELETE FROM outbox_cursor;", "DELETE FROM retention;"]
    for table in metadata.sorted_tables:
        names = [column.name for column in table.c]
        values = ", ', ', ".join(f"quote_nullable({name}::text)" for name in names)
        order = ", ".join(column.name for column in table.primary_key)
        for (row,) in await shop.rows(f"SELECT concat({values}) FROM {table.name} ORDER BY {order}"):
            columns = ", ".join(names)
            lines.append(f"INSERT INTO {table.name} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({row});")
    lines.append(
        "SELECT setval(pg_get_serial_sequence('product_revisions', 'revision'), max(revision))"
        " FROM product_revisions;"
    )
    return lines


def _tokens() -> dict[str, Any]:
    """Guest tokens that never die, since they were issued ahead of any wall clock."""
    secret, found = "a secret of the fixtures, which is long enough", []
    callers = Callers(Settings(jwt_secret=secret))
    for identity in (bytes(range(16)), b"\x01" + bytes(15), b"\xff" * 16, bytes(16)):
        with mock.patch("time.time", return_value=4_000_000_000.0):
            token, _ = callers._issue(SimpleNamespace(headers=[]), identity)  # type: ignore[arg-type]
        found.append({"token": token, "cart_id": _guest_of(identity).cart_id})
    return {"secret": secret, "tokens": found}


def _json(value: Any) -> str:
    def spelled(part: Any) -> Any:
        return {"latin-1": part.decode("latin-1")} if isinstance(part, bytes) else part

    return json.dumps(value, default=spelled, indent=1, ensure_ascii=True, sort_keys=True) + "\n"


async def _make(redis_url: str, database_url: str) -> None:
    await migrate(database_url)
    _record_calls()
    async with open_shop_with_record(redis_url, database_url) as shop:
        await shop.store.archive.claim(namespace="main", partitions=1, key_layout=LAYOUT)
        await shop.store.recover()
        _record_statements(shop)
        await _fill(shop)
        copier: Redis[bytes] = Redis.from_url(redis_url)
        commands, inserts = await _commands(copier), await _inserts(shop)
        await copier.aclose()
        owners = (ANN, BEN, EVE, GUS, GIL, DAN)
        at = {
            "now_ms": shop.clock.now_ms,
            "carts": {
                owner.cart_id: {
                    line.line_id: [line.quantity, line.held]
                    for line in (await shop.store.read_cart(owner)).lines
                }
                for owner in owners
            },
            "stock": {
                sku: [level.on_hand, level.held, level.sold, level.backordered]
                for sku in ("a", "b", "c", "d", "mug")
                for level in [await shop.store.read_stock(sku)]
            },
        }
        await _use_the_rest(shop)
    names = scripts.script_names()
    parts = sorted({part for name in names for part in scripts._parts(name)})
    calls = {
        name: {"parts": [parts.index(part) for part in scripts._parts(name)], "keys": keys, "args": args}
        for name in names
        for keys, args in [_call_of(name)]
    }
    (HERE / "engine.jsonl").write_text("".join(json.dumps(command) + "\n" for command in commands))
    (HERE / "record.sql").write_text("\n".join(inserts) + "\n")
    (HERE / "scripts.json").write_text(_json({"calls": calls, "parts": parts}))
    (HERE / "statements.json").write_text(_json(_statements))
    (HERE / "tokens.json").write_text(_json(_tokens()))
    (HERE / "at.json").write_text(_json(at))


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="cartstore-"))
    engine = Engine(folder / "engine", password="of the fixtures")
    database = Database(folder / "postgres", durable=False)
    commit = ["git", "rev-parse", "HEAD"]
    (HERE / "BASE").write_text(
        subprocess.run(commit, cwd=HERE, check=True, capture_output=True, text=True).stdout
    )
    engine.start()
    database.start()
    try:
        asyncio.run(_make(engine.url(), database.url("cartstore")))
    finally:
        engine.stop()
        database.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
