"""The module that fakeredis is given is what the engine has built in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lupa.lua51 as lua51
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FORMAT, BITS = ">i6i7i6i6", (48, 56, 48, 48)
EDGES = [sign * 2**bits + off for bits in (7, 8, 16, 31, 32, 47) for sign in (1, -1) for off in (-1, 0)]
VALUES = st.tuples(
    *(
        st.one_of(st.integers(-(2 ** min(bits - 1, 53)), 2 ** min(bits - 1, 53) - 1), st.sampled_from(EDGES))
        for bits in BITS
    )
).filter(
    lambda values: all(
        -(2 ** (bits - 1)) <= value < 2 ** (bits - 1) for value, bits in zip(values, BITS, strict=True)
    )
)


def module() -> Any:
    lua = lua51.LuaRuntime(encoding="latin-1", unpack_returned_tuples=True)
    return lua.execute(f"return dofile('{Path(__file__).with_name('struct.lua')}')")


OURS = module()


@given(VALUES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_module_reads_and_writes_as_the_engine_does_when_numbers_fit(
    redis_url: str, values: tuple[int, ...]
) -> None:
    with redis.Redis.from_url(redis_url) as engine:
        theirs = engine.eval("return struct.pack(ARGV[1], unpack(ARGV, 2))", 0, FORMAT, *values)
        read = engine.eval(
            "local read = {struct.unpack(ARGV[1], ARGV[2])} "
            "for place = 1, #read do read[place] = string.format('%.0f', read[place]) end return read",
            0,
            FORMAT,
            theirs,
        )

    assert OURS["pack"](FORMAT, *values).encode("latin-1") == theirs
    assert OURS["unpack"](FORMAT, theirs.decode("latin-1")) == (*values, len(theirs) + 1)
    assert [int(value) for value in read] == [*values, len(theirs) + 1]


def test_module_raises_when_a_text_is_cut() -> None:
    with pytest.raises(lua51.LuaError, match="too short"):
        OURS["unpack"](FORMAT, "\0" * 24)
