"""The cap gives relief: of two owners who always want the last unit, each gets it within cap + rest.

Goal: whatever an owner does to a cart, short of a checkout, the unit does not stay with that owner for longer
than the cap while another one asks for it. Method: two owners take turns of a second, in an order and with
verbs that Hypothesis chooses; each ends a turn by trying to have the unit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from itertools import cycle, islice

import pytest
from contract.backends import open_memory, open_real
from contract.shop import ANN, BEN, GUS, SECOND_MS, Shop, terms
from hypothesis import given, settings
from hypothesis import strategies as st

from cartstore.errors import InsufficientStock, ItemNotFound
from cartstore.model import line_id_of

WANTING = terms(hold_ttl_ms=4 * SECOND_MS, hold_cap_ms=20 * SECOND_MS, hold_rest_ms=5 * SECOND_MS)
TURN_MS = SECOND_MS
GETS_IT_WITHIN_MS = WANTING.hold_cap_ms + WANTING.hold_rest_ms + TURN_MS
ENGRAVINGS = (None, '{"text":"A"}', '{"text":"B"}')

Turn = tuple[bool, str, str, int]
"""Whether the second owner is first; the verb of each; the engraving that they choose."""
verbs = st.sampled_from(("extend", "extend", "validate", "set", "again", "other", "clear", "put", "nothing"))
turns = st.lists(st.tuples(st.booleans(), verbs, verbs, st.integers(0, 2)), min_size=5, max_size=25)


async def want(shop: Shop, owner: str, verb: str, engraving: str | None) -> bool:
    """One turn of one owner; whether the owner holds the unit after it."""
    line_id = line_id_of("unit", engraving)
    with suppress(InsufficientStock, ItemNotFound):
        match verb:
            case "again":
                await shop.clear(owner, terms=WANTING)
                await shop.add(owner, "unit", terms=WANTING)
            case "other":
                await shop.clear(owner, terms=WANTING)
                await shop.add(owner, "unit", properties=engraving, terms=WANTING)
            case "set":
                await shop.set(owner, line_id, 1, terms=WANTING)
            case "put":
                await shop.put(owner, ("unit", 1), terms=WANTING)
            case "clear":
                await shop.clear(owner, terms=WANTING)
    with suppress(InsufficientStock):
        if verb != "nothing" and not (await shop.cart(owner, terms=WANTING)).lines:
            await shop.add(owner, "unit", properties=engraving, terms=WANTING)
    cart = await shop.hold(owner, terms=WANTING, extend=verb != "validate")
    return any(line.held for line in cart.lines)


async def play(
    opened: AbstractAsyncContextManager[Shop], owners: tuple[str, str], played: list[Turn]
) -> None:
    async with opened as shop:
        await shop.sell("unit", 1)
        wanted_since = dict.fromkeys(owners, shop.now_ms)
        rounds = 3 * GETS_IT_WITHIN_MS // TURN_MS
        for is_reversed, *chosen, engraving in islice(cycle(played), rounds):
            pairs = list(zip(owners, chosen, strict=True))
            for owner, verb in reversed(pairs) if is_reversed else pairs:
                # Who does nothing wants nothing, until the next turn.
                if await want(shop, owner, verb, ENGRAVINGS[engraving]) or verb == "nothing":
                    wanted_since[owner] = shop.now_ms
            for owner, since_ms in wanted_since.items():
                assert shop.now_ms - since_ms <= GETS_IT_WITHIN_MS, owner
            shop.advance(TURN_MS)


@pytest.mark.parametrize(
    ("backend", "owners"), [("memory", (ANN, BEN)), ("real", (ANN, GUS))], ids=["memory", "real"]
)
def test_each_of_two_gets_the_last_unit_when_both_always_want_it(
    redis_url: str, backend: str, owners: tuple[str, str]
) -> None:
    open_shop: Callable[[], AbstractAsyncContextManager[Shop]] = (
        open_memory if backend == "memory" else lambda: open_real(redis_url)
    )

    @settings(settings(), max_examples=max(1, settings().max_examples // (3 if backend == "memory" else 12)))
    @given(played=turns)
    def each_gets_it(played: list[Turn]) -> None:
        asyncio.run(play(open_shop(), owners, played))

    each_gets_it()
