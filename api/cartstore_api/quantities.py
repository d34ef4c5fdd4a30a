"""Which quantities of a variant may be in a cart: the arithmetic of its quantity rules."""

from __future__ import annotations

import msgspec

from cartstore.model import Variant


class Rules(msgspec.Struct, frozen=True):
    """A line's quantity is at least `minimum`, at most `maximum` and a multiple of `multiple_of`."""

    minimum: int
    maximum: int
    multiple_of: int

    def __str__(self) -> str:
        multiples = f" in multiples of {self.multiple_of}" if self.multiple_of > 1 else ""
        return f"{self.minimum} to {self.maximum}{multiples}"

    def allows(self, quantity: int) -> bool:
        return self.minimum <= quantity <= self.maximum and quantity % self.multiple_of == 0

    def nearest(self, wanted: int, ceiling: int) -> int:
        """The largest quantity that is allowed, not above `ceiling` and not above `wanted` unless every
        allowed one is; 0 when there is none."""
        top = min(ceiling, self.maximum)
        smallest = -(-self.minimum // self.multiple_of) * self.multiple_of
        if smallest > top:
            return 0
        return max(smallest, min(wanted, top) // self.multiple_of * self.multiple_of)


def rules_of(variant: Variant | None, quantity_max: int) -> Rules:
    """The rules of a variant below the shop's own maximum; an unknown variant has no rules of its own."""
    if variant is None:
        return Rules(1, quantity_max, 1)
    return Rules(
        max(1, variant.min_quantity),
        min(quantity_max, variant.max_quantity or quantity_max),
        max(1, variant.multiple_of),
    )
