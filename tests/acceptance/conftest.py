"""One shop that all tests share which leave it as healthy as they found it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from .calling import Caller, Callers, calling
from .running import Shop, running_shop


@pytest.fixture(scope="session")
def shop() -> Iterator[Shop]:
    """Two API processes, a worker, the demo catalog."""
    with running_shop() as shop:
        yield shop


@pytest.fixture
async def callers(shop: Shop) -> AsyncIterator[Callers]:
    """Callers of the shared shop; at the end none of them may have been told of a defect."""
    async with calling(shop.url) as callers:
        yield callers
        callers.history.assert_no_defect()


@pytest.fixture
def admin(shop: Shop, callers: Callers) -> Caller:
    return callers.bearer("admin", shop.token("admin", "admin"))
