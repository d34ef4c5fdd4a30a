"""Which allocator the private engine is given, whatever this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cartstore.embedded import allocator
from cartstore.embedded.allocator import engine_environment


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    allocator._jemalloc.cache_clear()
    yield
    allocator._jemalloc.cache_clear()


def has_jemalloc(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.setattr(allocator, "find_library", lambda wanted: name if wanted == "jemalloc" else None)


def test_engine_gets_jemalloc_when_the_machine_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    has_jemalloc(monkeypatch, "libjemalloc.so.2")

    assert engine_environment()["LD_PRELOAD"] == "libjemalloc.so.2"


def test_engine_keeps_the_c_library_with_room_when_there_is_no_jemalloc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_jemalloc(monkeypatch, None)

    environment = engine_environment()

    assert "LD_PRELOAD" not in environment
    assert "tcache_count" in environment["GLIBC_TUNABLES"]


def test_engine_keeps_the_operators_choice_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    has_jemalloc(monkeypatch, "libjemalloc.so.2")
    monkeypatch.setenv("LD_PRELOAD", "/opt/mimalloc.so")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")

    environment = engine_environment()

    assert environment["LD_PRELOAD"] == "/opt/mimalloc.so"
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.check=3"
