"""What a run was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.measure import Figure


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`only`: keys of figures or names of benchmarks; empty for all of the set."""

    seconds: float = 1.0
    """Of one measurement."""
    repetitions: int = 5
    full: bool = False
    only: Sequence[str] = ()

    def wants(self, *figures: Figure) -> bool:
        """Whether at least one of these is to be measured."""
        return any(self._wants(figure) for figure in figures)

    def _wants(self, figure: Figure) -> bool:
        if self.only:
            return any(figure.key.startswith(name) for name in self.only)
        return self.full or figure.belongs_to == "core"
