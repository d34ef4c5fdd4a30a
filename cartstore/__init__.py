"""cartstore: a Redis-backed cart store that never oversells.

`async with cartstore.open_store(settings) as store:` is the whole entry point; see `store.CartStore`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cartstore.model import Guard, Owner, Product, Variant
from cartstore.settings import Settings, load_settings

if TYPE_CHECKING:
    from cartstore.store import CartStore
    from cartstore.wiring import open_store

__all__ = ["CartStore", "Guard", "Owner", "Product", "Settings", "Variant", "load_settings", "open_store"]


def __getattr__(name: str) -> Any:
    """The store and its drivers are loaded when they are first wanted: the vocabulary and the command line
    stay quick without them."""
    if name == "open_store":
        from cartstore.wiring import open_store

        return open_store
    if name == "CartStore":
        from cartstore.store import CartStore

        return CartStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
