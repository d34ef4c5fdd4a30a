"""What an engine says of its replicas. Owns how a promotion is told from a restart."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from cartstore.redis.caller import translate

LAG_SECONDS_MAX: Final = 10
"""The engine's own default of `min-replicas-max-lag`, taken where it does not tell."""


class Replication(msgspec.Struct, frozen=True, kw_only=True):
    """One engine's side of it."""

    replicas: int
    """That follow it now."""
    took_over: str
    """The replication id of the primary that it followed until it was promoted; empty if it never was."""
    replicas_min: int | None = None
    """Without so many that keep up it refuses writes (`min-replicas-to-write`); None: not told."""
    lag_seconds_max: int | None = None
    """How long ago they may have answered (`min-replicas-max-lag`); None: not told."""

    @property
    def stops_alone(self) -> bool:
        """Whether it soon refuses writes when nobody follows it any more: two must not go on selling."""
        if self.replicas_min is None or self.lag_seconds_max is None:
            # A hosted engine that keeps its settings to itself; nothing can be said against it.
            return True
        return self.replicas_min >= 1 and 0 < self.lag_seconds_max <= LAG_SECONDS_MAX


async def read_replication(client: Redis) -> Replication:
    """Raises StoreUnavailable."""
    settings: dict[Any, Any] = {}
    try:
        facts: dict[str, Any] = await client.info("replication")
        with suppress(ResponseError):  # Hosted engines forbid CONFIG.
            settings = await client.config_get("min-replicas-*")
    except (RedisError, OSError, TimeoutError) as error:
        raise translate(error, sent=False) from error
    before = str(facts.get("master_replid2", ""))
    return Replication(
        replicas=int(facts.get("connected_slaves", 0)),
        took_over=before.strip("0") and before,
        replicas_min=_number(settings, "min-replicas-to-write"),
        lag_seconds_max=_number(settings, "min-replicas-max-lag"),
    )


def _number(settings: dict[Any, Any], name: str) -> int | None:
    return int(settings[name]) if name in settings else None
