"""The one workload: who adds what, in which order. Owns the seed, the skew and the mix; does no I/O.

Names have a fixed width, so that a packed call or request can be made for another cart by replacing bytes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

SEED: Final = 20_261_120
SKUS: Final = 1_000
SOLD_OUT: Final = SKUS
"""One more than those that are bought, where one is wanted that has no units."""

CARTS: Final = 5_000
"""Buyers that are active at once; the API remembers that many verified tokens."""

LINES: Final = 3
"""Of a cart in the workloads that only add: it stops growing, so the last add costs what the first did."""

SKEW: Final = 1.0
"""Of Zipf's law: the second SKU is asked for half as often as the first, the third a third as often."""

MIX: Final = {"add": 50, "change": 20, "read": 25, "checkout": 5}
"""Percent. A change sets a quantity or removes a line, one as often as the other."""

AGE_MIN: Final = 256
"""Operations between a line's making and its change: connections may overtake each other by less."""

Verb = Literal["add", "set", "remove", "read", "checkout"]


class Operation(msgspec.Struct, frozen=True):
    """One call of one buyer. `sku` and `quantity` are 0 where the verb takes none."""

    verb: Verb
    cart: int
    sku: int = 0
    quantity: int = 0


def sku_name(number: int) -> str:
    return f"SKU-{number:04d}"


def user_name(number: int) -> str:
    return f"b{number:07d}"


class Zipf:
    """Draws SKU numbers; low numbers are popular."""

    def __init__(self, skus: int, chance: random.Random) -> None:
        self._skus = range(skus)
        self._weights = list(itertools.accumulate(1 / (rank + 1) ** SKEW for rank in range(skus)))
        self._chance = chance

    def draw(self, count: int = 1) -> list[int]:
        return self._chance.choices(self._skus, cum_weights=self._weights, k=count)

    def distinct(self, count: int) -> tuple[int, ...]:
        found: dict[int, None] = {}
        while len(found) < count:
            found.update(dict.fromkeys(self.draw(count - len(found))))
        return tuple(found)


def lines_of_carts(
    carts: int, *, skus: int = SKUS, lines: int = LINES, seed: int = SEED
) -> list[tuple[int, ...]]:
    """The SKUs that each cart has lines of."""
    zipf = Zipf(skus, random.Random(seed))
    return [zipf.distinct(lines) for _ in range(carts)]


def adds(
    count: int, *, carts: int = CARTS, skus: int = SKUS, lines: int = LINES, seed: int = SEED
) -> list[Operation]:
    """Adds of one unit by random buyers, each to one of the lines of its cart."""
    chosen = lines_of_carts(carts, skus=skus, lines=lines, seed=seed)
    chance = random.Random(seed + 1)
    found = []
    for _ in range(count):
        cart = chance.randrange(carts)
        found.append(Operation("add", cart, chance.choice(chosen[cart]), 1))
    return found


def mixed(count: int, *, carts: int = CARTS, skus: int = SKUS, seed: int = SEED) -> list[Operation]:
    """The mix. Changes and checkouts are of carts that have lines by then, so no call is refused."""
    return list(itertools.islice(_mixing(carts, skus, seed), count))


def _mixing(carts: int, skus: int, seed: int) -> Iterator[Operation]:
    chance = random.Random(seed + 2)
    zipf = Zipf(skus, chance)
    verbs, weights = list(MIX), list(itertools.accumulate(MIX.values()))
    contents: list[dict[int, int]] = [{} for _ in range(carts)]
    old: list[tuple[int, int, int]] = []
    """Lines that were made, as (number of the operation, cart, sku); the first are the oldest."""
    for number in itertools.count():
        verb = chance.choices(verbs, cum_weights=weights)[0]
        if verb == "read":
            yield Operation("read", chance.randrange(carts))
            continue
        place = _old_line(old, contents, number, chance) if verb != "add" else None
        if place is None:
            cart, sku = chance.randrange(carts), zipf.draw()[0]
            if sku not in contents[cart]:
                contents[cart][sku] = number
                old.append((number, cart, sku))
            yield Operation("add", cart, sku, 1)
            continue
        _, cart, sku = place
        if verb == "checkout":
            contents[cart].clear()
            yield Operation("checkout", cart)
        elif chance.random() < 0.5:
            yield Operation("set", cart, sku, chance.randint(1, 3))
        else:
            del contents[cart][sku]
            yield Operation("remove", cart, sku)


def _old_line(
    old: list[tuple[int, int, int]],
    contents: Sequence[dict[int, int]],
    number: int,
    chance: random.Random,
) -> tuple[int, int, int] | None:
    """A random line that is still there and old enough; what is gone is forgotten on the way."""
    for _ in range(64):
        if not old:
            return None
        place = chance.randrange(len(old))
        made, cart, sku = old[place]
        if contents[cart].get(sku) != made:
            old[place] = old[-1]
            old.pop()
        elif number - made >= AGE_MIN:
            return old[place]
    return None
