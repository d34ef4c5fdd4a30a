"""Ages of signs of life, however the engine's clock jumps, and when a child of `up` counts as hung."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from cartstore import limits
from cartstore.heartbeat import HUNG_SECONDS, RUN_VARIABLE, Age, Sightings, process_name, silence_text
from cartstore.model import Beat, Beats
from cartstore.watching import STARTING_FACTOR, Watch


class Clock:
    """This process's monotonic clock."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def beats(now_ms: int, **at: tuple[int, int]) -> Beats:
    """Beats of workers: name to (time, count)."""
    return Beats(
        now_ms=now_ms,
        beats=tuple(
            Beat(process=f"worker:{name}", at_ms=at_ms, count=count, state="{}")
            for name, (at_ms, count) in at.items()
        ),
    )


# --- ages -------------------------------------------------------------------------------------------


def test_age_is_the_engine_s_and_grows_when_it_was_seen_once(clock: Clock) -> None:
    age = Age(clock)
    age.see("a", 7.0)
    clock.now += 2

    assert age.seconds() == 9.0


def test_age_is_no_more_than_since_the_last_look_when_the_engine_s_clock_jumped_forward(clock: Clock) -> None:
    age = Age(clock)
    age.see("a", 0.0)
    clock.now += 3
    age.see("b", 3_600.0)

    assert age.seconds() == 3.0


def test_age_is_no_less_than_since_the_first_look_when_the_engine_s_clock_was_set_back(clock: Clock) -> None:
    age = Age(clock)
    for _ in range(10):
        age.see("a", 0.0)
        clock.now += 2

    assert age.seconds() == 20.0


def test_age_begins_anew_when_something_else_is_there(clock: Clock) -> None:
    age = Age(clock)
    age.see("a", 50.0)
    clock.now += 100
    age.see("b", 1.0)

    assert age.seconds() == 1.0


def test_sightings_give_the_youngest_worker_when_there_are_several(clock: Clock) -> None:
    seen = Sightings(clock)
    seen.see(beats(100_000, a=(60_000, 5), b=(98_000, 9)))

    assert seen.age_seconds("worker") == 2.0
    assert seen.age_seconds("api") is None


def test_sightings_let_a_process_age_when_it_is_not_there_any_more(clock: Clock) -> None:
    seen = Sightings(clock)
    seen.see(beats(100_000, a=(99_000, 5)))
    clock.now += 30
    seen.see(beats(130_000))
    aged = seen.age_seconds("worker")
    clock.now += limits.BEAT_KEPT_MS / 1_000
    seen.see(beats(430_000))

    assert (aged, seen.age_seconds("worker")) == (31.0, None)


def test_sightings_take_a_dead_worker_for_dead_when_the_clock_was_set_back(clock: Clock) -> None:
    """The script then says again and again that it beat just now."""
    seen = Sightings(clock)
    for second in range(0, 40, 2):
        seen.see(beats(second * 1_000, a=(second * 1_000, 5)))
        clock.now += 2

    assert seen.age_seconds("worker") == 40.0


def test_sightings_tell_states_and_skip_what_cannot_be_read(clock: Clock) -> None:
    seen = Sightings(clock)
    said = {"worker:old": '{"drift": {"x": 1}}', "worker:odd": "{", "worker:list": "[]", "api:a": '{"n": 1}'}
    seen.see(
        Beats(
            now_ms=9_000,
            beats=tuple(Beat(process=its, at_ms=1_000, count=1, state=text) for its, text in said.items()),
        )
    )

    assert list(seen.states("worker")) == [{"drift": {"x": 1}}]


def test_silence_is_told_without_a_number_when_no_worker_is_known() -> None:
    assert silence_text(float("inf")) == "no worker has given a sign of life"
    assert silence_text(42.4) == "no worker has given a sign of life for 42 s"


def test_process_name_tells_children_of_one_supervisor_when_the_variable_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(RUN_VARIABLE, "f00")

    assert process_name("worker", 7).endswith(":7:f00")
    assert process_name("worker", 7, "bar").endswith(":7:bar")


# --- hung children ----------------------------------------------------------------------------------


class Child:
    """A process of the supervisor's."""

    name = "The worker"

    def __init__(self) -> None:
        self.pid: int | None = 7
        self.signals: list[int] = []

    def send(self, number: signal.Signals) -> None:
        self.signals.append(number)


class Supervised:
    """A watch on one child, looking every two seconds."""

    def __init__(self, clock: Clock, kind: Any = "worker") -> None:
        self.told: list[str] = []
        self.clock = clock
        self.kind = kind
        self.child = Child()
        self.cpu_seconds = 0.0
        self.watch = Watch(self.told.append, clock=clock, cpu_seconds_of=lambda _: self.cpu_seconds)
        self.watch.add(kind, self.child)  # type: ignore[arg-type]
        self.count = 0
        self.run = self.watch.environment({})[RUN_VARIABLE]

    def look(
        self, *, seconds: float, beats: bool, step: float = 2.0, now_ms: int = 1_000, cpu_share: float = 0.0
    ) -> None:
        for _ in range(round(seconds / step)):
            self.clock.now += step
            self.cpu_seconds += cpu_share * step
            self.count += beats
            beat = Beat(
                process=process_name(self.kind, self.child.pid, self.run),
                at_ms=0,
                count=self.count,
                state="{}",
            )
            self.watch.look(Beats(now_ms=now_ms, beats=(beat,) if self.count else ()))


@pytest.mark.parametrize("kind", ["worker", "api"])
def test_child_is_killed_once_when_its_beat_stands_still_for_too_long(clock: Clock, kind: str) -> None:
    shop = Supervised(clock, kind)
    shop.look(seconds=10, beats=True)

    shop.look(seconds=HUNG_SECONDS, beats=False)
    assert shop.child.signals == []
    shop.look(seconds=2, beats=False)

    assert shop.child.signals == [signal.SIGKILL]
    assert "The worker (process 7) has given no sign of life for 60 s" in shop.told[0]


def test_child_is_let_alone_when_it_beats_however_the_engine_s_clock_jumps(clock: Clock) -> None:
    shop = Supervised(clock)

    for now_ms in (1_000, 7_200_000, 0):
        shop.look(seconds=40, beats=True, now_ms=now_ms)

    assert shop.child.signals == []


def test_child_is_let_alone_when_the_engine_takes_no_beats(clock: Clock) -> None:
    shop = Supervised(clock)
    shop.look(seconds=4, beats=True)
    shop.look(seconds=HUNG_SECONDS - 4, beats=False)

    for _ in range(100):
        clock.now += 2
        shop.watch.forget()
    shop.look(seconds=HUNG_SECONDS - 4, beats=False)

    assert shop.child.signals == []


def test_child_is_let_alone_when_the_supervisor_stood_still(clock: Clock) -> None:
    shop = Supervised(clock)
    shop.look(seconds=4, beats=True)

    shop.look(seconds=600, beats=False, step=300)

    assert shop.child.signals == []


def test_child_is_let_alone_when_it_was_started_anew(clock: Clock) -> None:
    shop = Supervised(clock)
    shop.look(seconds=4, beats=True)
    shop.look(seconds=HUNG_SECONDS - 4, beats=False)
    shop.child.pid = 8
    shop.look(seconds=HUNG_SECONDS - 4, beats=False)
    shop.child.pid = None
    shop.look(seconds=200, beats=False)

    assert shop.child.signals == []


@pytest.mark.parametrize("kind", ["worker", "api"])
def test_child_is_killed_when_it_has_not_beaten_since_its_start(clock: Clock, kind: str) -> None:
    shop = Supervised(clock, kind)

    shop.look(seconds=HUNG_SECONDS + 2, beats=False)
    assert shop.child.signals == []
    shop.look(seconds=2, beats=False)

    assert shop.child.signals == [signal.SIGKILL]
    assert "has given no sign of life for 60 s" in shop.told[0]


def test_child_that_has_not_beaten_is_let_alone_while_the_engine_takes_no_beats(clock: Clock) -> None:
    shop = Supervised(clock)
    shop.look(seconds=HUNG_SECONDS - 4, beats=False)
    clock.now += 200
    shop.watch.forget()
    shop.look(seconds=HUNG_SECONDS - 4, beats=False)

    assert shop.child.signals == []


def test_child_that_has_not_beaten_is_given_longer_while_it_loads(clock: Clock) -> None:
    shop = Supervised(clock)

    shop.look(seconds=STARTING_FACTOR * HUNG_SECONDS, beats=False, cpu_share=0.3)
    assert shop.child.signals == []
    shop.look(seconds=4, beats=True)
    shop.look(seconds=HUNG_SECONDS, beats=False, cpu_share=0.3)
    assert shop.child.signals == []
    shop.child.pid, shop.count = 8, 0
    shop.look(seconds=(STARTING_FACTOR + 1) * HUNG_SECONDS + 6, beats=False, cpu_share=0.3)

    assert shop.child.signals == [signal.SIGKILL]
