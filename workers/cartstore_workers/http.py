"""The worker's HTTP: health and metrics, answered by the event loop that does the duties, so that an answer
proves more than a thread which only ticks. Owns the few routes; uvicorn owns the protocol.

    /health, /health/live    whether the duties are done
    /health/ready            the shop, as the API tells it
    /metrics                 what this worker counted, and the shop's figures
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import msgspec
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST

from cartstore.exposition import render
from cartstore.tasks import end

CONNECTIONS_MAX: Final = 64
STOP_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 30

_JSON: Final = "application/json"


class Patient(Protocol):
    """What is asked of a worker."""

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the duties are done, and how that is known."""
        ...

    async def readiness(self) -> dict[str, Any] | None:
        """What `CartStore.readiness` finds; None while the store is not open."""
        ...


Answer = tuple[int, str, bytes]


class Pages:
    """The routes as an ASGI application."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._routes: dict[str, Callable[[], Awaitable[Answer]]] = {
            "/health": self._health,
            "/health/live": self._health,
            "/health/ready": self._ready,
            "/metrics": self._metrics,
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        route = self._routes.get(scope["path"])
        if route is None:
            status, kind, body = 404, _JSON, b'{"status":"nothing here"}'
        elif scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, _JSON, b'{"status":"GET only"}'
        else:
            status, kind, body = await route()
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _health(self) -> Answer:
        is_well, told = self._patient.health()
        return 200 if is_well else 503, _JSON, msgspec.json.encode(told)

    async def _ready(self) -> Answer:
        found = await self._patient.readiness()
        if found is None:
            return 503, _JSON, b'{"ready":false,"status":"unready","checks":{}}'
        told = {name: found[name] for name in ("ready", "status", "checks")}
        return 200 if found["ready"] else 503, _JSON, msgspec.json.encode(told)

    async def _metrics(self) -> Answer:
        found = await self._patient.readiness()
        return 200, CONTENT_TYPE_LATEST, render(found or {"checks": {}})


@asynccontextmanager
async def answering(patient: Patient, listener: socket.socket | None) -> AsyncIterator[None]:
    """Answer on this socket for the life of the context; on none without one."""
    if listener is None:
        yield
        return
    config = uvicorn.Config(
        Pages(patient),
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=IDLE_SECONDS,
    )
    server = uvicorn.Server(config)
    # Off the main thread uvicorn leaves signals alone.
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait({task}, timeout=STOP_SECONDS)
        await end(task)
