"""Idempotency keys of carts: replay, refusal of another request, and the ring of 16."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from cartstore.errors import (
    IdempotencyKeyReused,
    InsufficientStock,
    ItemNotFound,
    VersionConflict,
)
from cartstore.limits import IDEMPOTENCY_RING_SIZE

from .shop import ANN, BEN, GUS, MINUTE_MS, TERMS, Shop

Mutation = Callable[..., Awaitable[Any]]

MUTATIONS: dict[str, Mutation] = {
    "add": lambda shop, **guard: shop.add(ANN, "a", **guard),
    "set": lambda shop, **guard: shop.set(ANN, "a", 3, **guard),
    "set 0": lambda shop, **guard: shop.set(ANN, "a", 0, **guard),
    "remove": lambda shop, **guard: shop.remove(ANN, "a", **guard),
    "clear": lambda shop, **guard: shop.clear(ANN, **guard),
    "put": lambda shop, **guard: shop.put(ANN, ("a", 4), ("b", 1), **guard),
    "put partial": lambda shop, **guard: shop.put(ANN, ("a", 4), ("b", 99), mode="partial", **guard),
    "accept": lambda shop, **guard: shop.accept(ANN, **guard),
    "extend": lambda shop, **guard: shop.hold_lines(ANN, extend=True, **guard),
}

parametrize_mutations = pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS.keys())


async def _fill(shop: Shop) -> None:
    await shop.sell("a", 9)
    await shop.sell("b", 9)
    await shop.add(ANN, "a", 2)


@parametrize_mutations
async def test_mutation_gives_the_first_result_when_it_is_repeated(shop: Shop, mutate: Mutation) -> None:
    await _fill(shop)
    first = await mutate(shop, key="k")
    shop.advance(MINUTE_MS)
    await shop.add(ANN, "b", 2)
    before = await shop.cart(ANN)

    again = await mutate(shop, key="k")

    assert (first.replayed, again.replayed) == (False, True)
    assert again.summary == first.summary
    if getattr(first, "line", None) is not None:
        told = ("line_id", "sku", "quantity", "unit_price_minor", "revision", "properties_json", "ordinal")
        assert [getattr(again.line, name) for name in told] == [getattr(first.line, name) for name in told]
    assert getattr(again, "line", None) is None or again.created == first.created
    if hasattr(first, "outcomes"):
        assert [(one.line_id, one.code) for one in again.outcomes] == [
            (one.line_id, one.code) for one in first.outcomes
        ]
    assert await shop.cart(ANN) == before


@parametrize_mutations
async def test_mutation_refuses_when_the_key_had_another_request(shop: Shop, mutate: Mutation) -> None:
    await _fill(shop)
    await shop.add(ANN, "b", key="k", fingerprint="first")
    before = await shop.cart(ANN)

    with pytest.raises(IdempotencyKeyReused):
        await mutate(shop, key="k", fingerprint="second")

    assert await shop.cart(ANN) == before


@parametrize_mutations
async def test_mutation_is_replayed_when_if_match_is_old_by_then(shop: Shop, mutate: Mutation) -> None:
    await _fill(shop)
    version = (await shop.cart(ANN)).summary.version
    first = await mutate(shop, key="k", if_match=version)

    again = await mutate(shop, key="k", if_match=version)

    assert again.replayed
    assert again.summary == first.summary


async def test_mutation_names_the_reused_key_when_if_match_is_wrong_too(shop: Shop) -> None:
    await _fill(shop)
    await shop.add(ANN, "b", key="k", fingerprint="first")

    with pytest.raises(IdempotencyKeyReused):
        await shop.add(ANN, "b", key="k", fingerprint="second", if_match=0)


async def test_mutation_is_done_when_it_was_refused_before(shop: Shop) -> None:
    await shop.sell("a", 1)
    await shop.add(BEN, "a")
    with pytest.raises(InsufficientStock):
        await shop.add(ANN, "a", key="k")
    with pytest.raises(ItemNotFound):
        await shop.remove(ANN, "a", key="k", fingerprint="other")
    with pytest.raises(VersionConflict):
        await shop.add(ANN, "a", key="k", if_match=99)
    await shop.clear(BEN)

    result = await shop.add(ANN, "a", key="k")

    assert not result.replayed
    assert result.summary.total_items == 1


async def test_mutation_is_done_for_each_when_two_carts_use_one_key(shop: Shop) -> None:
    await shop.sell("a", 9)

    first = await shop.add(ANN, "a", key="k")
    second = await shop.add(BEN, "a", key="k", fingerprint="other")

    assert not first.replayed
    assert not second.replayed
    assert (await shop.level("a")).held == 2


async def test_mutation_is_replayed_when_the_cart_was_cleared_since(shop: Shop) -> None:
    await _fill(shop)
    first = await shop.add(ANN, "a", key="k")
    await shop.clear(ANN)

    again = await shop.add(ANN, "a", key="k")

    assert again.replayed
    assert again.summary == first.summary
    assert (await shop.level("a")).held == 0


async def test_clear_is_not_remembered_when_it_changed_nothing(shop: Shop) -> None:
    await shop.sell("a", 9)
    await shop.clear(ANN, key="k")

    result = await shop.add(ANN, "a", key="k", fingerprint="other")

    assert not result.replayed


async def test_extend_moves_no_hold_when_it_is_repeated(shop: Shop) -> None:
    await _fill(shop)
    first = await shop.hold_lines(ANN, extend=True, key="k")
    shop.advance(MINUTE_MS)

    again = await shop.hold_lines(ANN, extend=True, key="k")

    assert again.replayed
    assert again.cart.lines[0].hold_expires_at_ms == first.cart.lines[0].hold_expires_at_ms
    assert again.cart == await shop.cart(ANN)


async def test_extend_is_not_remembered_when_nothing_is_held(shop: Shop) -> None:
    await shop.sell("a", 9, hold_policy="on_checkout")
    before = await shop.add(ANN, "a")
    result = await shop.hold_lines(ANN, extend=True, key="k")

    after = await shop.add(ANN, "a", key="k", fingerprint="other")

    assert result.summary == before.summary
    assert not after.replayed


async def test_hold_lines_holds_nothing_when_it_is_repeated(shop: Shop) -> None:
    await _fill(shop)
    shop.advance(TERMS.hold_ttl_ms)
    first = await shop.hold_lines(ANN, key="k")
    shop.advance(TERMS.hold_ttl_ms)

    again = await shop.hold_lines(ANN, key="k")
    with pytest.raises(IdempotencyKeyReused):
        await shop.hold_lines(ANN, key="k", fingerprint="other")

    assert (first.replayed, again.replayed) == (False, True)
    assert (first.cart.lines[0].held, again.cart.lines[0].held) == (2, 0)
    assert again.summary == first.summary
    assert (await shop.level("a")).held == 0


async def test_hold_lines_is_not_remembered_when_it_held_nothing(shop: Shop) -> None:
    await _fill(shop)
    await shop.hold_lines(ANN, key="k")
    shop.advance(TERMS.hold_ttl_ms)

    result = await shop.hold_lines(ANN, key="k")

    assert not result.replayed
    assert result.cart.lines[0].held == 2


async def test_cart_remembers_16_keys_when_more_were_used(shop: Shop) -> None:
    await shop.sell("a", 99)
    for number in range(IDEMPOTENCY_RING_SIZE + 1):
        await shop.add(ANN, "a", key=f"k{number}")

    oldest_kept = await shop.add(ANN, "a", key="k1")
    newest = await shop.add(ANN, "a", key=f"k{IDEMPOTENCY_RING_SIZE}")
    forgotten = await shop.add(ANN, "a", key="k0")

    assert oldest_kept.replayed
    assert newest.replayed
    assert not forgotten.replayed
    assert (await shop.summary(ANN)).total_items == IDEMPOTENCY_RING_SIZE + 2


async def test_cart_forgets_the_oldest_key_when_it_was_only_replayed(shop: Shop) -> None:
    await shop.sell("a", 99)
    for number in range(IDEMPOTENCY_RING_SIZE):
        await shop.add(ANN, "a", key=f"k{number}")
    replayed = await shop.add(ANN, "a", key="k0")

    await shop.add(ANN, "a", key="one more")
    result = await shop.add(ANN, "a", key="k0")

    assert replayed.replayed
    assert not result.replayed


async def test_cart_keeps_its_keys_when_others_change_it_without_one(shop: Shop) -> None:
    await shop.sell("a", 99)
    await shop.add(ANN, "a", key="k")
    for _ in range(IDEMPOTENCY_RING_SIZE + 1):
        await shop.add(ANN, "a")

    assert (await shop.add(ANN, "a", key="k")).replayed


@pytest.mark.parametrize("key", ["k", "a key with spaces", "ключ", '"quoted"', "k" * 255, "a:b|c d", "0"])
async def test_cart_takes_any_key_when_it_has_odd_characters(shop: Shop, key: str) -> None:
    await shop.sell("a", 9)

    first = await shop.add(ANN, "a", key=key)
    again = await shop.add(ANN, "a", key=key)

    assert again.replayed
    assert again.summary == first.summary


async def test_mutation_is_replayed_exactly_when_numbers_are_large(shop: Shop) -> None:
    await shop.publish("gold", price_minor=10**11, policy="untracked")

    first = await shop.add(ANN, "gold", 99, key="k")
    again = await shop.add(ANN, "gold", 99, key="k")

    assert again.summary == first.summary
    assert again.summary.subtotal_minor == 99 * 10**11


@pytest.mark.parametrize("owner", [ANN, GUS])
@pytest.mark.parametrize(
    ("fields", "properties"),
    [
        ({}, None),
        ({}, '{"gravur":"größte Grüße, ☕\\u001f","note":"a*2\\r\\n"}'),
        ({"policy": "backorder"}, None),
        ({"policy": "untracked"}, None),
        ({"hold_policy": "on_checkout"}, None),
        ({"currency": "JPY", "price_minor": 0}, None),
    ],
)
async def test_line_is_told_alike_when_the_call_has_a_key_or_none(
    shop: Shop, fields: dict[str, Any], properties: str | None, owner: str
) -> None:
    await shop.sell("a", 9, **fields)
    added = await shop.add(owner, "a", 3, properties=properties)
    assert added.line is not None
    assert (added.created, added.line) == (True, await shop.line(owner, added.line.line_id))
    await shop.publish("a", price_minor=10**11)
    shop.advance(MINUTE_MS)

    without = await shop.set(owner, added.line.line_id, 2)
    having = await shop.set(owner, added.line.line_id, 2, key="k")

    assert without.line == having.line == await shop.line(owner, added.line.line_id)
    assert (
        (without.created, without.read_at_ms) == (having.created, having.read_at_ms) == (False, shop.now_ms)
    )
    assert without.summary == replace(having.summary, version=without.summary.version)
    await shop.publish("a", is_active=False)
    paused = await shop.set(owner, added.line.line_id, 1)
    assert paused.line == await shop.line(owner, added.line.line_id)
