"""How the workers log: in the form of cartstore.logs, an outage without a traceback."""

from __future__ import annotations

import logging
from typing import Final

import redis

from cartstore import logs
from cartstore.errors import StoreError

OUTAGES: Final = (redis.RedisError, StoreError, OSError)


def configure_logging(level: int = logging.INFO) -> None:
    """Send everything that this process logs to stderr as JSON."""
    logs.set_up_logs(logs.JsonFormatter(outages=OUTAGES), level)
