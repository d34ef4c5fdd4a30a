"""The module that fakeredis is given is what the engine has built in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lupa.lua51 as lua51
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EDGES = [sign * 2**bits + off for bits in (5, 7, 8, 15, 16, 31, 32) for sign in (1, -1) for off in (-1, 0, 1)]
"""Where one length ends and the next begins."""
WHOLE = st.one_of(st.integers(-(2**53), 2**53), st.sampled_from(EDGES))
VALUES = st.lists(st.one_of(WHOLE, st.text("ABCdef", max_size=31)), min_size=2, max_size=20)


def module() -> Any:
    lua = lua51.LuaRuntime(encoding="latin-1", unpack_returned_tuples=True)
    return lua.execute(f"return dofile('{Path(__file__).with_name('cmsgpack.lua')}')")


OURS = module()


@given(VALUES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_module_reads_and_writes_as_the_engine_does_when_values_are_whole_numbers_and_short_texts(
    redis_url: str, values: list[int | str]
) -> None:
    with redis.Redis.from_url(redis_url) as engine:
        theirs = engine.eval("return cmsgpack.pack(unpack(cjson.decode(ARGV[1])))", 0, json.dumps(values))
        # Ours may write a small negative number in more bytes than need be.
        again = engine.eval(
            "return cmsgpack.pack(cmsgpack.unpack(ARGV[1]))", 0, OURS["pack"](*values).encode("latin-1")
        )

    assert again == theirs
    assert OURS["unpack"](theirs.decode("latin-1")) == tuple(values)


@pytest.mark.parametrize("text", ["\xc1", "\xcd\x01", "\xcf\x01\x02"])
def test_module_raises_when_a_text_is_cut_or_has_an_unknown_mark(text: str) -> None:
    with pytest.raises(lua51.LuaError):
        OURS["unpack"](text)
