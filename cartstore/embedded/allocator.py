"""Owns which memory allocator the private engine gets.

The wheel's Valkey is built with the C library's allocator, where distributions and Valkey's own images take
jemalloc. It shows: a script makes and drops some hundred small objects, and among hundreds of thousands of
carts the C library hands out chunks that lie all over the memory (benchmarks/README.md has the figures).
"""

from __future__ import annotations

import os
from ctypes.util import find_library
from functools import cache

GLIBC_TUNABLES = "glibc.malloc.tcache_count=1000:glibc.malloc.tcache_max=4096"
"""Where there is no jemalloc: the C library's own cache for a thread holds seven chunks of a size; with room
for more an add costs the engine a tenth less."""


def engine_environment() -> dict[str, str]:
    """Our environment for the engine's process, with jemalloc in front where this machine has it.

    What the operator set in LD_PRELOAD or GLIBC_TUNABLES stays as it is.
    """
    chosen = {"GLIBC_TUNABLES": GLIBC_TUNABLES}
    if library := _jemalloc():
        chosen["LD_PRELOAD"] = library
    return {**chosen, **os.environ}


@cache
def _jemalloc() -> str | None:
    """The library's name as the dynamic linker knows it. Asking costs a process."""
    return find_library("jemalloc")
