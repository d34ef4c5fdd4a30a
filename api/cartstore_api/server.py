"""The server that we ship with: uvicorn with its flags, and with connections that have the fast lane."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from types import FrameType
from typing import Any, Final, cast

import uvicorn

from cartstore_api.app import Application
from cartstore_api.connection import Connection
from cartstore_api.connection_limits import ConnectionRegistry, Limits, limits_of
from cartstore_api.controllers.service import is_stopping
from cartstore_api.http_connection import HttpConnection
from cartstore_api.turns import Turns

KEEP_ALIVE_SECONDS: Final = 75
"""Longer than clients and proxies keep an idle connection (5 to 60 s as a rule), so that they close it and
not we: a request sent at the moment when we close would be lost without an answer."""

GRACE_SECONDS: Final = 4
"""What a request that is under way at the end still gets; less than the patience of who stops us."""


class Server(uvicorn.Server):
    """Serves an application, whose life is not this server's: it is begun and ended by who starts this.

    `has_lane`: hot requests take the short way; the answers are the same. `limits`: of connections, else
    those of the settings. `drain_seconds`: how long it goes on answering after SIGTERM, so that load
    balancers see `/health/serving` refuse and send requests elsewhere. `changes`: other flags.
    """

    def __init__(
        self,
        app: Application,
        *,
        has_lane: bool = True,
        limits: Limits | None = None,
        drain_seconds: float = 0,
        **changes: Any,
    ) -> None:
        self.registry = ConnectionRegistry(
            limits or limits_of(app.settings), app.client_addresses, app.observer, app.caching, app.cors
        )
        flags: dict[str, Any] = {
            "loop": "uvloop",
            "http": partial(Connection, app.lane, Turns(), self.registry)
            if has_lane
            else partial(HttpConnection, self.registry),
            "ws": "none",
            # Held by who starts us and not by uvicorn, which would tell of a refused start with a traceback.
            "lifespan": "off",
            "access_log": False,
            "log_config": None,
            "server_header": False,
            "proxy_headers": False,
            "timeout_keep_alive": KEEP_ALIVE_SECONDS,
            "timeout_graceful_shutdown": GRACE_SECONDS,
        }
        super().__init__(uvicorn.Config(cast(Any, app), **{**flags, **changes}))
        self._app = app
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by signals. A second one, or SIGINT, ends the server without draining."""
        is_first, self._app.state.is_stopping = not is_stopping(self._app), True
        if not (is_first and sig == signal.SIGTERM and self._drain_seconds):
            super().handle_exit(sig, frame)
            return
        loop, end = asyncio.get_running_loop(), super().handle_exit
        loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, end, sig, None)
