"""The shop that every test of the suite gets, once per backend."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .backends import BACKENDS, open_shop
from .shop import Shop


@pytest.fixture(params=BACKENDS)
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    # A server is started only if some test wants one, so the fixture is asked for here and not named above.
    async with open_shop(request.param, lambda: request.getfixturevalue("redis_url")) as shop:
        yield shop
