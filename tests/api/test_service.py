"""Health, metrics, logs, the edge, the documentation, the doorbell, and the program itself."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from cartstore_api import doorbell as doorbell_module
from cartstore_api import metrics
from cartstore_api import services as services_module
from cartstore_api.__main__ import main
from cartstore_api.context import request_id_of
from cartstore_api.doorbell import ID_PREFIX, JOB, Doorbell
from cartstore_api.logging import ReadyLines, configure_logging
from cartstore_api.server import Server
from conftest import listening, port_of
from prometheus_client import REGISTRY
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from cartstore.embedded.parts import child_environment, queue_url_beside
from cartstore.errors import OutcomeUnknown, StoreRecovering, StoreUnavailable
from cartstore.settings import Settings


async def test_health_is_live_and_ready_when_all_parts_answer(api: Any) -> None:
    await api.store.engine.beat("worker:host:1:a", "{}")

    live = await api.anyone.get("/health/live")
    ready = await api.anyone.get("/health/ready")

    assert (live.status_code, live.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()["ready"], ready.json()["status"]) == (200, True, "ok")
    found = {name: check["ok"] for name, check in ready.json()["checks"].items()}
    assert {"engine", "gate", "database", "drain", "worker", "quarantine", "migrations"} <= set(found)
    assert set(found.values()) == {True}


@pytest.mark.parametrize(("status", "code"), [("ok", 200), ("degraded", 200), ("unready", 503)])
async def test_health_ready_is_503_only_when_carts_cannot_be_changed(
    api: Any, monkeypatch: Any, status: str, code: int
) -> None:
    async def found() -> dict[str, Any]:
        checks = {
            "database": {"ok": False, "detail": "no answer"},
            "drain": {"ok": None, "detail": "unknown"},
        }
        return {"ready": status != "unready", "status": status, "checks": checks}

    monkeypatch.setattr(api.store, "readiness", found)
    ready = await api.anyone.get("/health/ready")
    exposed = await api.anyone.get("/metrics")

    assert (ready.status_code, ready.json()["status"]) == (code, status)
    assert ready.json()["checks"]["database"] == {"ok": False, "detail": "no answer"}
    assert ready.json()["checks"]["drain"]["ok"] is None
    assert 'cartstore_check_ok{check="database"} 0.0' in exposed.text
    assert 'check="drain"' not in exposed.text
    assert (await api.anyone.get("/health/live")).status_code == 200


async def test_health_serving_is_503_before_the_first_open_gate_and_not_after_it(
    api: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(services_module, "READINESS_SECONDS", 0.0)
    gate = {"ok": False, "detail": "rebuilding, carts: 1 of 2"}

    async def found() -> dict[str, Any]:
        return {"ready": bool(gate["ok"]), "status": "unready", "checks": {"gate": gate}}

    monkeypatch.setattr(api.store, "readiness", found)
    before = await api.anyone.get("/health/serving")
    gate["ok"] = True
    opened = await api.anyone.get("/health/serving")
    gate["ok"] = False
    unready = await api.anyone.get("/health/ready")
    shut_again = await api.anyone.get("/health/serving")

    assert (before.status_code, before.json()) == (503, {"status": "starting"})
    assert (opened.status_code, opened.json()) == (200, {"status": "ok"})
    assert (unready.status_code, shut_again.status_code) == (503, 200)


async def test_health_and_metrics_ask_once_however_many_want_to_know(api: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(services_module, "READINESS_SECONDS", 3_600.0)
    looks = 0
    usual = api.store.readiness

    async def counted() -> dict[str, Any]:
        nonlocal looks
        looks += 1
        return dict(await usual())

    monkeypatch.setattr(api.store, "readiness", counted)
    paths = ["/health/ready", "/metrics", "/health/serving"] * 5
    answers = await asyncio.gather(*(api.anyone.get(path) for path in paths))

    assert looks == 1
    assert {answer.status_code for answer in answers} == {200}


async def test_health_serving_is_503_from_sigterm_on_while_requests_are_still_answered(api: Any) -> None:
    async with listening(api.app, drain_seconds=3_600) as server, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{port_of(server)}"
        before = await client.get(f"{url}/health/serving")

        server.handle_exit(signal.SIGTERM, None)

        # On a new connection, as a load balancer asks.
        async with httpx.AsyncClient() as other:
            after = await other.get(f"{url}/health/serving")
            cart = await other.get(f"{url}/v1/cart")
        assert (before.status_code, after.status_code, after.json()) == (200, 503, {"status": "stopping"})
        assert cart.status_code == 200
        assert not server.should_exit


async def test_server_ends_at_once_when_it_is_told_twice(api: Any, monkeypatch: Any) -> None:
    ended: list[int] = []
    monkeypatch.setattr(uvicorn.Server, "handle_exit", lambda self, sig, frame: ended.append(sig))
    server = Server(api.app, drain_seconds=3_600)

    server.handle_exit(signal.SIGTERM, None)
    assert ended == []
    server.handle_exit(signal.SIGTERM, None)

    assert ended == [signal.SIGTERM]


async def test_reads_are_not_told_what_became_of_a_change_when_the_store_is_away(
    api: Any, monkeypatch: Any
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(api.store.engine, "read_stock", away)
    for error in (StoreUnavailable(), StoreRecovering(), OutcomeUnknown()):  # noqa: B007
        told = await api.anyone.get("/v1/stock/MUG")

        assert told.status_code == 503
        assert "applied" not in told.text
        assert "change" not in told.json()["detail"]


async def test_metrics_count_requests_by_template_when_ids_differ(api: Any) -> None:
    def count(route: str) -> float:
        labels = {"method": "GET", "route": route, "status": "4xx"}
        return REGISTRY.get_sample_value("cartstore_http_requests_total", labels) or 0.0

    before = count("/v1/products/{product_id}"), count("unmatched")
    for number in range(3):
        await api.anyone.get(f"/v1/products/none-{number}")
        await api.anyone.get(f"/none/{number}")
    await api.anyone.request("BREW", "/v1/cart")
    exposed = await api.anyone.get("/metrics")

    assert (count("/v1/products/{product_id}"), count("unmatched")) == (before[0] + 3, before[1] + 3)
    assert exposed.headers["Content-Type"].startswith("text/plain")
    assert 'cartstore_problems_total{code="PRODUCT_NOT_FOUND"}' in exposed.text
    assert "none-1" not in exposed.text
    assert "BREW" not in exposed.text


def test_metrics_are_of_all_processes_when_a_folder_is_shared(tmp_path: Path) -> None:
    program = (
        "from cartstore import exposition\n"
        "from cartstore_api import metrics\n"
        "buckets = [0, 0, 0, 1] + [0] * 10\n"
        "metrics.add('GET', '/v1/cart', 200, None, count=1, seconds=0.01, buckets=buckets)\n"
        "print(exposition.render({'checks': {'engine': {'ok': True}}}).decode())\n"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)

    # As a file of a process looks in the instant in which it is made.
    (tmp_path / "counter_1.db").touch()
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )

    assert 'cartstore_http_requests_total{method="GET",route="/v1/cart",status="2xx"} 2.0' in run.stdout
    assert 'seconds_bucket{le="0.005",method="GET",route="/v1/cart"} 0.0' in run.stdout
    assert 'seconds_bucket{le="0.01",method="GET",route="/v1/cart"} 2.0' in run.stdout
    assert 'seconds_count{method="GET",route="/v1/cart"} 2.0' in run.stdout
    assert 'seconds_sum{method="GET",route="/v1/cart"} 0.02' in run.stdout
    assert 'cartstore_check_ok{check="engine"} 1.0' in run.stdout


async def test_logs_tell_the_request_without_secrets_when_it_is_answered(api: Any, caplog: Any) -> None:
    await api.sell()
    api.app.state.services.observer.flush()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="cartstore.access"):
        await api.ana.post(
            "/v1/cart/items?ticket=hush",
            json={"sku": "MUG", "properties": {"note": "hush"}},
            headers={"X-Request-Id": "me-1", "Cookie": "cart=hush", "X-Cart-Token": "hush"},
        )
        await api.ana.get("/v1/orders/hush")
        api.app.state.services.observer.flush()

    texts = [ReadyLines().format(record) for record in caplog.records]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    assert [
        (line["request_id"], line["method"], line["route"], line["status"], line["code"])
        for line in lines[:1]
    ] == [("me-1", "POST", "/v1/cart/items", 422, "VALIDATION_FAILED")]
    assert (lines[1]["route"], lines[1]["code"]) == ("/v1/orders/{order_id}", "ORDER_NOT_FOUND")
    assert all(line["ms"] >= 0 and line["level"] == "info" for line in lines)
    assert "hush" not in json.dumps(lines)


async def test_logs_have_no_error_when_the_store_refuses(api: Any, caplog: Any) -> None:
    await api.ana.get("/v1/orders/none")

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_log_line_is_json_when_the_text_is_odd() -> None:
    try:
        raise ValueError("a\ud800b")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "said %s", ("\ud800\n",), sys.exc_info())
    record.fields = {"text": "\udcff", "number": 1}

    line = ReadyLines().format(record)

    assert "\n" not in line
    assert json.loads(line)["message"] == "said ?\n"
    assert json.loads(line)["error"] == "ValueError: a?b"
    assert "ValueError" in json.loads(line)["traceback"]
    assert json.loads(line)["number"] == 1


def test_logging_goes_to_stderr_when_it_is_configured(capsys: Any) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging()
        logging.getLogger("x").info("hello")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)

    assert json.loads(capsys.readouterr().err)["message"] == "hello"


@pytest.mark.parametrize(
    ("sent", "is_kept"),
    [("abc-1.~_", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("", False), ("a\n", False)],
)
def test_request_id_is_kept_when_it_is_sane(sent: str, is_kept: bool) -> None:
    made = request_id_of(sent.encode())

    assert (made == sent) is is_kept
    assert re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", made)


def test_request_ids_are_of_one_length_however_many_are_made() -> None:
    """The two ways of a request are compared by the bytes of their answers."""
    assert {len(request_id_of(None)) for _ in range(70_000)} == {24}


async def test_head_gives_the_headers_when_get_would_give_a_body(api: Any) -> None:
    got = await api.ana.get("/v1/cart")
    head = await api.ana.head("/v1/cart")
    missing = await api.ana.head("/v1/products/none")

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["ETag"] == got.headers["ETag"]
    assert (missing.status_code, missing.content) == (404, b"")
    assert (await api.ana.head("/v1/cart/items")).status_code == 405


async def test_head_sends_no_byte_of_a_body_when_get_would(api: Any) -> None:
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": "HEAD",
        "path": "/health/live",
        "raw_path": b"/health/live",
        "query_string": b"",
        "headers": [(b"host", b"shop.test")],
        "scheme": "http",
        "server": ("shop.test", 80),
        "client": ("1.2.3.4", 5),
        "http_version": "1.1",
        "root_path": "",
        "asgi": {"version": "3.0"},
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await api.app(scope, receive, send)

    assert sent[0]["status"] == 200
    assert b"".join(message.get("body", b"") for message in sent[1:]) == b""
    assert scope["method"] == "HEAD", "the server looks at it to know that no body follows"


async def test_options_names_the_methods_when_the_path_exists(api: Any) -> None:
    response = await api.anyone.options("/v1/cart")
    refused = await api.anyone.put("/v1/cart")

    assert response.status_code == 204
    assert response.headers["Allow"] == refused.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS"
    assert (await api.anyone.options("/v1/guest")).headers["Allow"] == "OPTIONS, POST"
    assert (await api.anyone.options("/v1/none")).status_code == 404


async def test_root_leads_to_a_page_that_needs_no_network(api: Any) -> None:
    root = await api.anyone.get("/")
    page = await api.anyone.get("/schema")
    missing = await api.anyone.get("/schema/none")

    assert (root.status_code, root.headers["Location"]) == (307, "/schema")
    assert page.headers["Content-Type"].startswith("text/html")
    assert re.findall(r"(?:https?:)?//(?!www\.w3\.org)[\w.-]+\.[a-z]+", page.text) == []
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")


# --- doorbell --------------------------------------------------------------------------------------


@pytest.fixture
def queue(redis_url: str) -> Iterator[Queue]:
    with Redis.from_url(queue_url_beside(redis_url)) as connection:
        yield Queue("cartstore-main", connection=connection, serializer=JSONSerializer)


def _until(condition: Any) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came about")


def _rings(outcome: str) -> float:
    return REGISTRY.get_sample_value("cartstore_doorbell_rings_total", {"outcome": outcome}) or 0.0


def test_doorbell_queues_one_job_when_it_rings_often(redis_url: str, queue: Queue) -> None:
    before = _rings("waiting")

    with Doorbell(Settings(redis_url=redis_url)) as ring:
        for _ in range(50):
            ring()
        _until(lambda: len(queue) == 1)
        ring()
        _until(lambda: _rings("waiting") > before)

    (job,) = queue.jobs
    assert (job.func_name, job.args, job.result_ttl) == (JOB, [0], 0)
    assert job.id.startswith(ID_PREFIX)


def test_doorbell_queues_again_when_the_job_was_taken_or_is_gone(redis_url: str, queue: Queue) -> None:
    with Doorbell(Settings(redis_url=redis_url, queue_url=queue_url_beside(redis_url))) as ring:
        ring()
        _until(lambda: len(queue) == 1)
        queue.jobs[0].delete(remove_from_queue=False)
        ring()
        _until(lambda: len(queue.job_ids) == 2)
        queue.empty()
        ring()
        _until(lambda: len(queue) == 1)


def test_doorbell_is_counted_and_goes_on_when_the_queue_is_away(
    redis_url: str, queue: Queue, monkeypatch: Any
) -> None:
    monkeypatch.setattr(doorbell_module, "PAUSE_AFTER_FAILURE_SECONDS", 0.01)
    before = _rings("failed")

    with Doorbell(Settings(redis_url=redis_url)) as ring:
        working = ring._queue.enqueue_call

        def broken(*arguments: Any, **named: Any) -> None:
            raise OSError("away")

        monkeypatch.setattr(ring._queue, "enqueue_call", broken)
        ring()
        _until(lambda: _rings("failed") > before)
        monkeypatch.setattr(ring._queue, "enqueue_call", working)
        ring()
        _until(lambda: len(queue) == 1)


# --- the program -----------------------------------------------------------------------------------


def test_main_refuses_when_the_settings_do_not_allow_to_serve(monkeypatch: Any, capsys: Any) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for name in list(os.environ):
        if name.startswith("CARTSTORE_"):
            monkeypatch.delenv(name)
    try:
        assert main([]) == 2
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)

    assert "CARTSTORE_JWT_SECRET" in capsys.readouterr().err


async def _answers(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        for _ in range(600):
            try:
                return (await client.get(url + "/health/ready")).status_code == 200
            except httpx.TransportError:
                await asyncio.sleep(0.05)
    return False


@pytest.mark.parametrize("way", ["fd", "port"])
async def test_program_serves_and_ends_cleanly_when_it_is_told_to(settings: Settings, way: str) -> None:
    settings = msgspec.structs.replace(settings, queue_url=queue_url_beside(settings.redis_url))
    environment = {
        **child_environment(settings),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "CARTSTORE_DRAIN_SECONDS": "0",
        "CARTSTORE_ACCESS_LOG": "all",
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        passed = [listener.fileno()] if way == "fd" else []
        if way == "port":
            listener.close()
        where = ["--fd", str(passed[0])] if passed else ["--host", "127.0.0.1", "--port", str(port)]
        program = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "cartstore_api", *where],
            env=environment,
            pass_fds=passed,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        assert await _answers(f"http://127.0.0.1:{port}")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for path in ("/v1/products/%ff%00", "/v1/cart"):
                response = await client.get(path)
                assert response.status_code in (200, 404)
                assert "server" not in response.headers
            added = await client.post("/v1/cart/items", json={"sku": "NONE"})
            assert added.status_code == 404
            for number in range(20):
                await client.get("/v1/cart", headers={"X-Request-Id": f"last-{number}"})
    finally:
        program.send_signal(signal.SIGTERM)
        _, logged = await asyncio.to_thread(program.communicate, timeout=30)

    assert program.returncode == 0, logged
    lines = [json.loads(line) for line in logged.splitlines()]
    assert {"/health/ready", "/v1/cart"} <= {line.get("route") for line in lines}
    told = [line["request_id"] for line in lines if line.get("request_id", "").startswith("last-")]
    assert told == [f"last-{number}" for number in range(20)]


def test_metrics_take_any_method_when_it_is_unknown() -> None:
    metrics.add("BREW", "/x", 418, None, count=1, seconds=0.0, buckets=[1] + [0] * 13)

    labels = {"method": "other", "route": "/x", "status": "4xx"}
    assert REGISTRY.get_sample_value("cartstore_http_requests_total", labels) == 1.0
