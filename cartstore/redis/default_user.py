"""A defect of Redis 7.0 that loses data at a restart, found before it does.

Redis 7.0 loads its append-only file as the user `default`. It refuses to a `default` that was switched off
without rights (`user default off` in the ACL file) what scripts wrote, and drops it without a message. Valkey
loads it whatever rights that user has. Measured on Redis 7.0.15 and Valkey 9.1.2.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from cartstore.errors import ConfigurationError
from cartstore.redis.caller import translate

FIXED_IN: Final = (7, 2)

_ADVICE: Final = (
    "Write `user default off ~* &* +@all` in the ACL file: that user cannot log in, and keeps its rights."
)

_log = logging.getLogger("cartstore.redis")


async def check_default_user(client: Redis, server: dict[str, Any], version: tuple[int, ...]) -> None:
    """Raises ConfigurationError for an engine that drops what scripts wrote at its next restart,
    StoreUnavailable. `server`: INFO server, as redis-py reads it; `version`: of the engine."""
    if not version or version >= FIXED_IN or "valkey_version" in server:
        return
    try:
        user: Any = await client.acl_getuser("default")
    except ResponseError:
        # Asking takes a right that scripts do not need.
        _log.warning("This engine may not be asked for the rights of its user `default`. %s", _ADVICE)
        return
    except (RedisError, OSError, TimeoutError) as error:
        raise translate(error, sent=False) from error
    if "+@all" not in user["categories"] or "~*" not in user["keys"]:
        raise ConfigurationError(
            "The engine's user `default` lacks rights, and Redis 7.0 loads its append-only file as that user:"
            f" at its next restart it would drop everything that scripts wrote. {_ADVICE}"
        )
