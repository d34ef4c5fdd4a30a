"""Adds that share a call against the same adds, one call each: the replies and the whole engine are the same.

Both are the scripts' own calls, on one engine that is put back in between, with everything that may be said
of an add, whatever is wrong with a cart, and times that are given.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis
from contract.backends import open_wire
from contract.shop import LIFETIME_MS, SECOND_MS, TERMS, Shop
from msgspec.structs import replace

from cartstore.embedded import Engine
from cartstore.model import CartTerms, line_id_of
from cartstore.redis.keys import Keys
from cartstore.redis.scripts import Script, script
from cartstore.redis.store import packed_terms
from cartstore.redis.wire.calls import Call
from cartstore.redis.wire.several import SEVERAL_MAX, packed_several

ROUNDS = 25
CARTS = ["u.a", "u.b", "u.c", "g.d", "g.e"]
SKUS = ["tee", "few", "by-two", "backorder", "euro", "inactive", "unknown"]
PROPERTIES = [None, None, None, '{"to":"Käthe"}']
TERMS_OF = [
    TERMS,
    replace(TERMS, hold_ttl_ms=2 * TERMS.hold_ttl_ms),
    replace(TERMS, held_max=4, guest_share_ppm=300_000),
    replace(TERMS, lines_max=2, items_max=9, quantity_max=4),
    replace(TERMS, reservations=False),
    replace(TERMS, hold_ttl_ms=9_000 * SECOND_MS, hold_cap_ms=9_000 * SECOND_MS),
]

Add = tuple[tuple[str, str, str], list[str | int]]
"""Keys and arguments, without the identity."""


@pytest.fixture
def blobs(own: Engine) -> Iterator[Any]:
    """The engine, with values as they are."""
    with redis.Redis.from_url(own.url()) as client:
        yield client


async def stocked(shop: Shop) -> None:
    await shop.sell("tee", 1_000)
    await shop.sell("few", 9)
    await shop.sell("by-two", 50, multiple_of=2, min_quantity=2)
    await shop.sell("backorder", 1, policy="backorder")
    await shop.sell("euro", 10, currency="EUR")
    await shop.sell("inactive", 10)
    await shop.publish("inactive", is_active=False)


def some_add(chance: random.Random, keys: Keys, now_ms: int) -> Add:
    cart, sku = chance.choice(CARTS), chance.choice(SKUS + ["tee", "few"] * 3)
    properties = chance.choice(PROPERTIES)
    key = chance.choice(["", "", "", "k1", "k2"])
    args: list[str | int] = [
        packed_terms(chance.choice(TERMS_OF)) if chance.random() < 0.97 else "no terms",
        line_id_of(sku, properties),
        chance.choice([1, 1, 2, "2", 3, 8, 0, -1, "x", 10**10]),
        chance.choice(["", "", "1"]),
        chance.choice(["", "", "", 0, "1", 7]),
        key,
        chance.choice(["f1", "f1", "f2"]) if key else "",
        properties or "",
        now_ms + chance.randrange(-5, 5) * SECOND_MS,
    ]
    return (keys.gate, keys.cart(cart), keys.sku(sku)), args


def alone(client: Any, identity: str, adds: Sequence[Add]) -> list[Any]:
    replies = []
    for keys, args in adds:
        try:
            replies.append(client.execute_command("EVAL", _add().text, 3, *keys, identity, *args))
        except Exception as error:
            replies.append(error)
    return [_told(reply) for reply in replies]


def together(client: Any, identity: str, adds: Sequence[Add]) -> list[Any]:
    """As the wire packs them, but for the command's first words."""
    carrier = _add().several
    assert carrier is not None
    nobody: Any = None
    calls = [Call(nobody, _add(), keys, args, 0) for keys, args in adds]
    as_text = Script(carrier.name, carrier.source)
    as_text.command = "EVAL", carrier.text
    connection = client.connection_pool.get_connection()
    try:
        connection.send_packed_command([packed_several(as_text, calls, identity)])
        return [_told(reply) for reply in connection.read_response()]
    finally:
        client.connection_pool.release(connection)


def replies_either_way(client: Any, identity: str, adds: Sequence[Add]) -> list[Any]:
    """The replies, which are the same alone and together, as is all that the engine keeps afterwards."""
    before = copy_of(client)
    expected, state = alone(client, identity, adds), state_of(client)
    put_back(client, before)
    assert together(client, identity, adds) == expected
    assert state_of(client) == state
    return expected


def _add() -> Script:
    return script("cart_add_line")


def _told(reply: Any) -> Any:
    # Where in which script an error arose is told in different words.
    return str(reply).split(" ")[0] if isinstance(reply, Exception) else reply


def state_of(client: Any) -> dict[bytes, Any]:
    found = {}
    for key in sorted(client.keys("*")):
        kind = client.type(key)
        value = client.get(key) if kind == b"string" else client.dump(key)
        if kind == b"hash":
            value = client.hgetall(key)
        elif kind == b"zset":
            value = client.zrange(key, 0, -1, withscores=True)
        found[key] = kind, value, client.ttl(key) > 0
    return found


def copy_of(client: Any) -> list[tuple[bytes, int, bytes]]:
    return [(key, max(0, client.pttl(key)), client.dump(key)) for key in client.keys("*")]


def put_back(client: Any, copy: Sequence[tuple[bytes, int, bytes]]) -> None:
    client.flushdb()
    for key, ttl_ms, value in copy:
        client.restore(key, ttl_ms, value)


@pytest.mark.parametrize("seed", range(8))
async def test_adds_do_what_they_do_alone_when_they_share_a_call(own: Engine, blobs: Any, seed: int) -> None:
    chance = random.Random(seed)
    async with open_wire(own.url()) as shop:
        await stocked(shop)
        keys, now_ms = Keys(shop.partition), shop.now_ms
        identity = blobs.hget(keys.gate, "identity").decode()
        seen: set[Any] = set()
        for number in range(ROUNDS):
            # Now and then so late that holds are due.
            now_ms += chance.choice([1, 60, 60, 500, 4_000]) * SECOND_MS
            adds = [some_add(chance, keys, now_ms) for _ in range(chance.randrange(1, SEVERAL_MAX + 1))]
            harmed = _harm(chance, blobs, keys) if number > ROUNDS // 2 else None

            expected = replies_either_way(blobs, identity, adds)

            seen.update(reply if isinstance(reply, str) else reply[0] for reply in expected)
            if harmed is not None:
                blobs.delete(harmed)
        assert {b"OK", b"DUE", b"PRODUCT_NOT_FOUND", b"VERSION_CONFLICT", "CARTBADARG"} <= seen


def _harm(chance: random.Random, client: Any, keys: Keys) -> str | None:
    """Make something unreadable; what has to go before it can be used again."""
    key = keys.cart(chance.choice(CARTS))
    kind = chance.choice(["no", "no", "type", "text", "ring"])
    if kind == "no":
        return None
    if kind == "ring":
        client.hset(key, "ip", "no number")
        return key
    client.delete(key)
    if kind == "type":
        client.set(key, "no hash")
    else:
        client.hset(key, "a", b"\xc1 is no MessagePack")
    return key


async def test_every_add_is_refused_when_the_number_of_changes_is_none(own: Engine, blobs: Any) -> None:
    async with open_wire(own.url()) as shop:
        await stocked(shop)
        keys = Keys(shop.partition)
        identity = blobs.hget(keys.gate, "identity").decode()
        for harm in (b" 7", b"1.5"):
            blobs.hset(keys.gate, "change", harm)
            adds = [_plain(keys, cart, shop.now_ms, sku="nope" if cart == "u.b" else "tee") for cart in CARTS]

            expected = replies_either_way(blobs, identity, adds)

            assert expected[1] == [b"PRODUCT_NOT_FOUND"]
            assert "hash" in expected


async def test_adds_that_are_refused_are_told_why_when_the_index_of_changes_is_broken(
    own: Engine, blobs: Any
) -> None:
    async with open_wire(own.url()) as shop:
        await stocked(shop)
        keys = Keys(shop.partition)
        identity = blobs.hget(keys.gate, "identity").decode()
        blobs.delete(keys.activity)
        blobs.set(keys.activity, "no sorted set")
        adds = [_plain(keys, cart, shop.now_ms, sku="nope" if cart == "u.b" else "tee") for cart in CARTS]

        expected = replies_either_way(blobs, identity, adds)

        assert expected == ["WRONGTYPE", [b"PRODUCT_NOT_FOUND"], *["WRONGTYPE"] * 3]


async def test_adds_take_the_engines_time_when_they_name_none_beside_one_that_does(
    own: Engine, blobs: Any
) -> None:
    """And may leave out from the end whatever says nothing."""
    async with open_wire(own.url()) as shop:
        await stocked(shop)
        keys = Keys(shop.partition)
        identity = blobs.hget(keys.gate, "identity").decode()
        named = _plain(keys, "u.a", shop.now_ms)
        unnamed = _plain(keys, "u.b", "", sku="few")
        short = unnamed[0], unnamed[1][:3]

        replies = together(blobs, identity, [named, short, unnamed, named])

        now_ms = int(blobs.time()[0]) * 1_000
        assert [reply[0] for reply in replies] == [b"OK"] * 4
        told = [int.from_bytes(packed[8:16]) for _, packed in replies]
        assert [time_ms == shop.now_ms for time_ms in told] == [True, False, False, True]
        assert all(abs(time_ms - now_ms) < 60_000 for time_ms in told[1:3])


@pytest.mark.parametrize("harm", ["before", "after"])
async def test_lifetime_is_that_of_adds_alone_when_one_fails_that_raises_it(
    own: Engine, blobs: Any, harm: str
) -> None:
    """Before it has written it, or after; the next one raises it less far."""
    longest, longer = (
        replace(TERMS, hold_ttl_ms=n * LIFETIME_MS, hold_cap_ms=n * LIFETIME_MS) for n in (3, 2)
    )
    async with open_wire(own.url()) as shop:
        await stocked(shop)
        keys = Keys(shop.partition)
        identity = blobs.hget(keys.gate, "identity").decode()
        if harm == "before":
            blobs.set(keys.holds("tee"), "no sorted set")
        else:
            blobs.hset(keys.cart("u.a"), "ip", "no number")
        adds = [
            _plain(keys, "u.a", shop.now_ms, terms=longest, key="k1"),
            _plain(keys, "u.b", shop.now_ms, sku="few", terms=longer),
            _plain(keys, "u.c", shop.now_ms, sku="few"),
        ]

        expected = replies_either_way(blobs, identity, adds)

        assert isinstance(expected[0], str)
        raised = longer if harm == "before" else longest
        assert int(blobs.hget(keys.gate, "lifetime_ms")) == raised.hold_ttl_ms


def _plain(
    keys: Keys, cart: str, now: int | str, *, sku: str = "tee", terms: CartTerms = TERMS, key: str = ""
) -> Add:
    args: list[str | int] = [packed_terms(terms), sku, 1, "", "", key, "f" if key else "", "", now]
    return (keys.gate, keys.cart(cart), keys.sku(sku)), args
