"""How many requests begin in one turn of the loop, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import chain

import pytest
from cartstore_api.turns import AT_ONCE_MIN, PARTS, Turns


class _Request:
    """Notes the turn of the loop in which it began."""

    def __init__(self, crowd: _Crowd, number: int) -> None:
        self._crowd = crowd
        self._number = number

    def begin(self) -> None:
        self._crowd.begun[-1].append(self._number)


class _Crowd:
    """Requests, and in which turns of the loop they began. `under_way`: of which `Turns` is told."""

    def __init__(self, under_way: int) -> None:
        self.turns = Turns(range(under_way))
        self.begun: list[list[int]] = [[]]

    def come(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.turns.take(_Request(self, number))

    async def pass_turns(self, count: int) -> None:
        for _ in range(count):
            self.begun.append([])
            await asyncio.sleep(0)


async def test_requests_begin_at_once_when_they_are_few() -> None:
    crowd = _Crowd(under_way=AT_ONCE_MIN)
    crowd.come(range(AT_ONCE_MIN))

    assert crowd.begun == [list(range(AT_ONCE_MIN))]


@pytest.mark.parametrize(
    ("under_way", "share"),
    [
        (1, AT_ONCE_MIN),
        (AT_ONCE_MIN * PARTS + PARTS - 1, AT_ONCE_MIN),
        (AT_ONCE_MIN * PARTS + PARTS, AT_ONCE_MIN + 1),
        (1_000, 1_000 // PARTS),
    ],
)
async def test_a_share_of_the_crowd_begins_in_each_turn_when_it_comes_at_once(
    under_way: int, share: int
) -> None:
    crowd = _Crowd(under_way)
    count = AT_ONCE_MIN + 2 * share + 1
    crowd.come(range(count))
    await crowd.pass_turns(4)

    assert [len(turn) for turn in crowd.begun] == [AT_ONCE_MIN, share, share, 1, 0]
    assert list(chain(*crowd.begun)) == list(range(count))


async def test_requests_wait_behind_others_when_these_wait_already() -> None:
    crowd = _Crowd(under_way=AT_ONCE_MIN)
    crowd.come(range(AT_ONCE_MIN + 1))
    await crowd.pass_turns(1)
    crowd.come(range(100, 100 + 2 * AT_ONCE_MIN))
    await crowd.pass_turns(2)

    # Of the second turn one place is taken by the one that waited.
    assert [len(turn) for turn in crowd.begun] == [AT_ONCE_MIN, AT_ONCE_MIN, AT_ONCE_MIN, 1]
    assert list(chain(*crowd.begun)) == [*range(AT_ONCE_MIN + 1), *range(100, 100 + 2 * AT_ONCE_MIN)]


async def test_requests_begin_at_once_again_when_none_waits_any_more() -> None:
    crowd = _Crowd(under_way=AT_ONCE_MIN)
    for first in (0, 1_000):
        crowd.come(range(first, first + 2 * AT_ONCE_MIN))
        await crowd.pass_turns(5)
    crowd.come([2_000])

    assert [len(turn) for turn in crowd.begun] == [
        *(AT_ONCE_MIN, AT_ONCE_MIN, 0, 0, 0, AT_ONCE_MIN, AT_ONCE_MIN, 0, 0, 0, 1)
    ]


async def test_calls_leave_before_the_next_ones_are_made_when_requests_wait() -> None:
    """With the multiplexed connection, which writes at the end of a turn what was called in it."""
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    tasks = []

    class Calling:
        def begin(self) -> None:
            tasks.append(loop.create_task(self.call()))

        async def call(self) -> None:
            if not seen or seen[-1] == "written":
                loop.call_soon(seen.append, "written")
            seen.append("called")

    turns = Turns(range(AT_ONCE_MIN))
    for _ in range(3 * AT_ONCE_MIN):
        turns.take(Calling())
    for _ in range(6):
        await asyncio.sleep(0)

    assert seen == 3 * [*["called"] * AT_ONCE_MIN, "written"]
