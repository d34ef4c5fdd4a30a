"""Notes of requests: gathered, handed on in time, and never lost."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from cartstore_api import observing
from cartstore_api.context import RequestContext
from cartstore_api.logging import ReadyLines
from cartstore_api.observing import Observer
from prometheus_client import REGISTRY

ROUTE = "/v1/cart"


def _context(request_id: str) -> RequestContext:
    return RequestContext([(b"x-request-id", request_id.encode())])


def _lines(caplog: Any) -> list[Any]:
    return [
        json.loads(line) for record in caplog.records for line in ReadyLines().format(record).splitlines()
    ]


async def _until_there_are(caplog: Any, lines: int) -> None:
    for _ in range(1_000):
        if len(_lines(caplog)) >= lines:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the lines never came")


def _count(route: str, **labels: str) -> float:
    name = "cartstore_http_requests_total" if "status" in labels else "cartstore_http_request_seconds_count"
    return REGISTRY.get_sample_value(name, {"method": "GET", "route": route, **labels}) or 0.0


@pytest.fixture(autouse=True)
def _listening(caplog: Any) -> None:
    caplog.set_level(logging.INFO, logger="cartstore.access")


async def test_notes_wait_for_each_other_when_they_come_together(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(observing, "FLUSH_SECONDS", 0.02)
    observer = Observer()

    for number in range(10):
        observer.note(_context(f"r-{number}"), "GET", "/together", 200, 0.0011)
    waiting = list(caplog.records)
    await _until_there_are(caplog, 10)

    assert waiting == []
    assert len(caplog.records) == 1
    assert [line["request_id"] for line in _lines(caplog)] == [f"r-{number}" for number in range(10)]
    assert _count("/together") == _count("/together", status="2xx") == 10


async def test_notes_are_handed_on_again_when_more_come_after_a_pause(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(observing, "FLUSH_SECONDS", 0.01)
    observer = Observer()

    for number in range(3):
        observer.note(_context(f"r-{number}"), "GET", ROUTE, 200, 0.001)
        await _until_there_are(caplog, number + 1)

    assert len(caplog.records) == 3


async def test_lines_are_written_before_their_time_when_there_are_many(caplog: Any) -> None:
    observer = Observer()

    for number in range(observing.LINES_MAX + 1):
        observer.note(_context(f"r-{number}"), "GET", ROUTE, 200, 0.001)

    assert len(_lines(caplog)) == observing.LINES_MAX
    observer.close()
    assert len(_lines(caplog)) == observing.LINES_MAX + 1


async def test_notes_are_handed_on_at_once_when_the_application_ended(caplog: Any) -> None:
    observer = Observer()
    observer.note(_context("before"), "GET", "/ended", 200, 0.001)
    observer.close()
    observer.note(_context("after"), "GET", "/ended", 504, 0.001)

    assert [line["request_id"] for line in _lines(caplog)] == ["before", "after"]
    assert (_count("/ended", status="2xx"), _count("/ended", status="5xx")) == (1, 1)


async def test_line_has_the_form_of_other_lines_when_it_is_written(caplog: Any) -> None:
    observer = Observer()
    context = _context("r-1")
    context.code = "INSUFFICIENT_STOCK"
    observer.note(context, "POST", "/v1/cart/items", 409, 0.00123)
    observer.flush()
    logging.getLogger("cartstore.access").info("x", extra={"fields": {}})

    line, other = _lines(caplog)
    assert list(line)[:4] == list(other)
    assert line | {"at": ""} == {
        "at": "",
        "level": "info",
        "logger": "cartstore.access",
        "message": "request",
        "request_id": "r-1",
        "method": "POST",
        "route": "/v1/cart/items",
        "status": 409,
        "code": "INSUFFICIENT_STOCK",
        "ms": 1.23,
    }
    assert line["at"][:16] == other["at"][:16]
    assert len(line["at"]) == len(other["at"])


async def test_made_up_methods_are_one_kind_when_they_are_noted(caplog: Any) -> None:
    observer = Observer("sampled")

    for number in range(50):
        observer.note(_context("r"), f'BREW"{number}' + "x" * 40, "unmatched", 405, 0.001)
    observer.flush()

    assert len(observer._kinds) == 1
    assert [line["method"] for line in _lines(caplog)] == ["other"] * (observing.SAMPLED_MAX + 1)


async def test_like_requests_are_sampled_and_the_rest_counted_under_load(caplog: Any) -> None:
    observer = Observer("sampled")
    for number in range(100):
        observer.note(_context(f"r-{number}"), "GET", "/sampled", 200, 0.002)
    observer.note(_context("rare"), "POST", "/sampled", 201, 0.002)

    observer.flush()
    observer.note(_context("later"), "GET", "/sampled", 200, 0.002)
    observer.flush()

    lines = _lines(caplog)
    ids = [line["request_id"] for line in lines if line["message"] == "request"]
    assert ids == [*(f"r-{number}" for number in range(observing.SAMPLED_MAX)), "rare", "later"]
    (rest,) = [line for line in lines if line["message"] == "more requests"]
    assert rest | {"at": ""} == {
        "at": "",
        "level": "info",
        "logger": "cartstore.access",
        "message": "more requests",
        "method": "GET",
        "route": "/sampled",
        "status": 200,
        "code": None,
        "count": 100 - observing.SAMPLED_MAX,
        "ms_mean": 2.0,
    }
    assert _count("/sampled", status="2xx") == 101


async def test_only_refusals_are_sampled_when_all_is_to_be_written(caplog: Any) -> None:
    observer = Observer("all")
    refused = _context("refused")
    refused.code = "STORE_FULL"
    for _ in range(30):
        observer.note(_context("taken"), "GET", "/all", 200, 0.001)
        observer.note(refused, "POST", "/all", 503, 0.001)

    observer.flush()

    written = [line.get("request_id") for line in _lines(caplog)]
    assert (written.count("taken"), written.count("refused")) == (30, observing.SAMPLED_MAX)
    assert _lines(caplog)[-1]["count"] == 30 - observing.SAMPLED_MAX


async def test_requests_are_counted_and_not_written_when_the_access_log_is_off(caplog: Any) -> None:
    observer = Observer("off")
    observer.note(_context("r"), "GET", "/off", 200, 0.001)
    observer.close()
    observer.note(_context("r"), "GET", "/off", 200, 0.001)

    assert _lines(caplog) == []
    assert _count("/off", status="2xx") == 2


@pytest.mark.parametrize(
    ("seconds", "bound"),
    [(0.0, "0.001"), (0.001, "0.001"), (0.0011, "0.0025"), (10.0, "10.0"), (11.0, "+Inf")],
)
async def test_seconds_fall_into_their_bucket_when_they_are_at_its_bound(seconds: float, bound: str) -> None:
    def at_most(le: str) -> float:
        labels = {"method": "GET", "route": f"/{seconds}", "le": le}
        return REGISTRY.get_sample_value("cartstore_http_request_seconds_bucket", labels) or 0.0

    observer = Observer()
    observer.note(_context("r"), "GET", f"/{seconds}", 200, seconds)
    observer.flush()
    observer.flush()

    bounds = [*(str(float(bound)) for bound in observing.metrics.SECONDS_BOUNDS), "+Inf"]
    place = bounds.index(bound)
    assert [at_most(le) for le in bounds] == [0.0] * place + [1.0] * (len(bounds) - place)
