"""cartstore: a Redis-backed cart store that never oversells.

`async with cartstore.open_store(settings) as store:` is the whole entry point; see `store.CartStore`.
"""
