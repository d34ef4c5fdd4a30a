"""cartstore: a Redis-backed cart store that never oversells.

`async with cartstore.open_store(settings) as store:` is the whole entry point; see `store.CartStore`.
"""

from cartstore.model import Guard, Owner, Product, Variant
from cartstore.settings import Settings, load_settings
from cartstore.store import CartStore
from cartstore.wiring import open_store

__all__ = ["CartStore", "Guard", "Owner", "Product", "Settings", "Variant", "load_settings", "open_store"]
