"""The key layout: the version of what the engine's keys hold and of how their values are packed."""

from __future__ import annotations

from typing import Final

LAYOUT: Final = 5
"""Goes up when scripts of the version before would misread what those of this one write."""

LAYOUT_BEFORE: Final = 4
"""The only other layout that is taken over (recovery/take_over.py)."""

PARTITIONS: Final = 1
"""That carts and stock are spread over."""


def layout_of(identity: str) -> int:
    """The key layout that an identity carries; 0 for one of a layout before 5, which carries none."""
    layout, slash, _ = identity.partition("/")
    return int(layout) if slash and layout.isdecimal() else 0


def engine_of(identity: str) -> str:
    """The identity without the layout: `run_id:master_replid`."""
    return identity.partition("/")[2] if layout_of(identity) else identity


def layout_refusal(what: str, layout: int | str) -> str:
    """Why an engine or a record of this layout is refused, and the way to go."""
    number = int(layout) if str(layout).isdecimal() else 0
    way = (
        "Start the version that it was written by, or a later one."
        if number > LAYOUT
        else f"Start a version of layout {number + 1} on it first, and then each later one."
        if number >= LAYOUT_BEFORE - 1
        else "No release had it: docs/operations.md, Upgrading, says how to rebuild the engine."
    )
    return f"{what} is of key layout {layout}, and this version is of layout {LAYOUT}. {way}"
