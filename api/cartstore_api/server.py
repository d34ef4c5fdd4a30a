"""The server that we ship with: uvicorn with its flags, and with connections that have the fast lane."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, cast

import uvicorn

from cartstore_api.app import Application
from cartstore_api.connection import Connection
from cartstore_api.connection_limits import ConnectionRegistry, Limits, limits_of
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
    those of the settings. `changes`: other flags.
    """

    def __init__(
        self, app: Application, *, has_lane: bool = True, limits: Limits | None = None, **changes: Any
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
