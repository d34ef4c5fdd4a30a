"""The workload is the same every time, and is what it says it is."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import seeding, workload
from benchmarks.baselines.bare import PACKED_TERMS
from benchmarks.peers.load import filled, requests_of
from cartstore.redis.store import packed_terms


def test_workload_repeats_itself_when_the_seed_is_the_same() -> None:
    first = workload.mixed(5_000, carts=100, skus=50)

    assert workload.mixed(5_000, carts=100, skus=50) == first
    assert workload.mixed(5_000, carts=100, skus=50, seed=1) != first
    assert workload.adds(500) == workload.adds(500)


def test_mixed_has_the_shares_of_the_mix_when_it_is_long() -> None:
    operations = workload.mixed(40_000)

    counts = Counter("change" if op.verb in ("set", "remove") else op.verb for op in operations)
    for verb, percent in workload.MIX.items():
        assert counts[verb] / 400 == pytest.approx(percent, abs=1.5), verb


def test_mixed_names_only_lines_that_are_there_when_it_changes_or_checks_out() -> None:
    lines: dict[tuple[int, int], int] = {}
    for number, op in enumerate(workload.mixed(20_000, carts=500, skus=100)):
        if op.verb == "add":
            lines.setdefault((op.cart, op.sku), number)
        elif op.verb in ("set", "remove"):
            assert number - lines[op.cart, op.sku] >= workload.AGE_MIN, "connections may overtake each other"
            if op.verb == "remove":
                del lines[op.cart, op.sku]
        elif op.verb == "checkout":
            gone = [line for line in lines if line[0] == op.cart]
            assert gone, "an empty cart was checked out"
            for line in gone:
                del lines[line]


def test_adds_leave_carts_as_they_are_when_every_cart_has_its_lines() -> None:
    chosen = workload.lines_of_carts(50, skus=20)

    assert all(len(set(lines)) == workload.LINES for lines in chosen)
    for op in workload.adds(2_000, carts=50, skus=20):
        assert op.sku in chosen[op.cart]


def test_zipf_asks_twice_as_often_for_the_first_when_it_is_compared_with_the_second() -> None:
    counts = Counter(op.sku for op in workload.adds(60_000, carts=60_000, lines=1))

    assert counts[0] / counts[1] == pytest.approx(2, rel=0.1)


def test_template_becomes_a_request_when_its_words_are_filled_in() -> None:
    template = 'POST /c/{user} HTTP/1.1\nHost: {host}\nContent-Length: 1\nX: {token}\n\n{"s": "{sku}"}\n'

    made = filled(template, {"host": "h:1", "user": "b1", "sku": "SKU-1", "token": "t"})
    many = requests_of(template, "http://h:1", count=3, carts=2, skus=5, buyers=[{"token": "a"}])

    expected = b'POST /c/b1 HTTP/1.1\r\nHost: h:1\r\nX: t\r\nContent-Length: 14\r\n\r\n{"s": "SKU-1"}'
    assert made == expected
    assert len(many) == 3
    assert all(b"X: a\r\n" in request for request in many)


def test_bare_app_sends_the_terms_that_the_shop_is_seeded_with() -> None:
    """It spells them out, and its scripts refuse all others."""
    assert packed_terms(seeding.TERMS) == PACKED_TERMS
