"""Owns the Lua sources as package data; holds no Python logic. `cartstore.redis.scripts` reads them."""
