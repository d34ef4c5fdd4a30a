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

    def begin(self) -> bool:
        if self._number in self._crowd.given_up:
            return False
        if self._number in self._crowd.failing:
            raise MemoryError
        self._crowd.begun[-1].append(self._number)
        return True


class _Crowd:
    """Requests, and in which turns of the loop they began. `given_up`, `failing`: those that never do."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.begun: list[list[int]] = [[]]
        self.given_up: set[int] = set()
        self.failing: set[int] = set()

    @property
    def sizes(self) -> list[int]:
        return [len(turn) for turn in self.begun]

    def come(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.turns.take(_Request(self, number))

    async def pass_turns(self, count: int, *, ending: int = 0) -> None:
        """`ending`: requests that end in each turn before the next ones begin."""
        for _ in range(count):
            for _ in range(ending):
                self.turns.end()
            self.begun.append([])
            await asyncio.sleep(0)


async def test_requests_begin_at_once_when_they_are_few() -> None:
    crowd = _Crowd()
    crowd.come(range(AT_ONCE_MIN))

    assert crowd.begun == [list(range(AT_ONCE_MIN))]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (AT_ONCE_MIN + 1, [AT_ONCE_MIN, 1, 0]),
        (AT_ONCE_MIN * PARTS + PARTS - 1, [*[AT_ONCE_MIN] * 5, 4, 0]),
        (AT_ONCE_MIN * PARTS + PARTS, [AT_ONCE_MIN, *[AT_ONCE_MIN + 1] * 4, 1, 0]),
        (1_000, [AT_ONCE_MIN, *[1_000 // PARTS] * 4, 200 - AT_ONCE_MIN, 0]),
    ],
)
async def test_a_share_of_the_crowd_begins_in_each_turn_when_it_comes_at_once(
    count: int, sizes: list[int]
) -> None:
    crowd = _Crowd()
    crowd.come(range(count))
    await crowd.pass_turns(len(sizes) - 1)

    assert crowd.sizes == sizes
    assert list(chain(*crowd.begun)) == list(range(count))


async def test_shares_become_smaller_when_requests_end() -> None:
    crowd = _Crowd()
    crowd.come(range(100))
    await crowd.pass_turns(5, ending=5)

    assert crowd.sizes == [AT_ONCE_MIN, 19, 18, 17, 16, 15]


async def test_requests_wait_behind_others_when_these_wait_already() -> None:
    crowd = _Crowd()
    crowd.come(range(AT_ONCE_MIN + 1))
    await crowd.pass_turns(1)
    crowd.come(range(100, 100 + 2 * AT_ONCE_MIN))
    await crowd.pass_turns(2)

    # Of the second turn one place is taken by the one that waited.
    assert crowd.sizes == [AT_ONCE_MIN, AT_ONCE_MIN, AT_ONCE_MIN, 1]
    assert list(chain(*crowd.begun)) == [*range(AT_ONCE_MIN + 1), *range(100, 100 + 2 * AT_ONCE_MIN)]


async def test_requests_begin_at_once_again_when_none_waits_any_more() -> None:
    crowd = _Crowd()
    for first in (0, 1_000):
        crowd.come(range(first, first + 2 * AT_ONCE_MIN))
        await crowd.pass_turns(5)
    crowd.come([2_000])

    assert crowd.sizes == [AT_ONCE_MIN, AT_ONCE_MIN, 0, 0, 0, AT_ONCE_MIN, AT_ONCE_MIN, 0, 0, 0, 1]


async def test_a_share_is_small_again_when_a_large_crowd_has_gone() -> None:
    crowd = _Crowd()
    crowd.come(range(500))
    await crowd.pass_turns(7, ending=20)
    for _ in range(500 - 7 * 20):
        crowd.turns.end()
    crowd.come(range(500, 560))

    assert crowd.sizes[-1] == AT_ONCE_MIN


async def test_requests_that_were_given_up_are_not_counted_when_their_turn_comes() -> None:
    crowd = _Crowd()
    crowd.given_up = set(range(500))
    crowd.come(range(500))
    await crowd.pass_turns(60)
    crowd.come(range(500, 600))
    await crowd.pass_turns(1)

    assert crowd.sizes == [*[0] * 60, AT_ONCE_MIN, 100 // PARTS]


@pytest.mark.parametrize("failing", [AT_ONCE_MIN, 2 * AT_ONCE_MIN - 1])
async def test_the_others_begin_when_one_of_them_cannot(failing: int) -> None:
    errors: list[Exception] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: errors.append(told["exception"]))
    crowd = _Crowd()
    crowd.failing = {failing}
    crowd.come(range(3 * AT_ONCE_MIN))
    await crowd.pass_turns(1)
    crowd.come([3 * AT_ONCE_MIN])
    await crowd.pass_turns(4)

    assert list(chain(*crowd.begun)) == [number for number in range(3 * AT_ONCE_MIN + 1) if number != failing]
    assert [type(error) for error in errors] == [MemoryError]


async def test_calls_leave_before_the_next_ones_are_made_when_requests_wait() -> None:
    """With the multiplexed connection, which writes at the end of a turn what was called in it."""
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    tasks = []

    class Calling:
        def begin(self) -> bool:
            tasks.append(loop.create_task(self.call()))
            return True

        async def call(self) -> None:
            if not seen or seen[-1] == "written":
                loop.call_soon(seen.append, "written")
            seen.append("called")

    turns = Turns()
    for _ in range(3 * AT_ONCE_MIN):
        turns.take(Calling())
    for _ in range(6):
        await asyncio.sleep(0)

    assert seen == 3 * [*["called"] * AT_ONCE_MIN, "written"]
