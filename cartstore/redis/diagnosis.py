"""What is told of an engine that cannot serve: where it is, what is wrong with it, and what to change.

For those who run the store. Callers get the general message of `cartstore.redis.caller.translate`.
"""

from __future__ import annotations

from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError

from cartstore.causes import cause_of
from cartstore.errors import ConfigurationError, StoreUnavailable
from cartstore.problems import variable_of
from cartstore.redis.caller import translate
from cartstore.redis.clients import CONNECT_TIMEOUT_SECONDS
from cartstore.urls import database_number, without_secret

_REFUSALS: Final = ("AUTH", "WRONGPASS", "NOAUTH", "NOPERM")


def engine_away(url: str, error: Exception, setting: str = "redis_url") -> Exception:
    """What a failed question to the engine is, by the taxonomy; an engine that cannot be reached, or refuses
    the connection, with its address and the cause. `setting`: where the URL is from."""
    translated = translate(error, sent=False)
    place, text = without_secret(url), str(error)
    if "DB index is out of range" in text:
        return ConfigurationError(
            f"The engine at {place} has no database {database_number(url)}: name another number at the end "
            f"of {variable_of(setting)}, or raise the engine's setting `databases`."
        )
    if type(translated) is not StoreUnavailable:
        return translated
    if cause := credentials_fault(error):
        return StoreUnavailable(translated.message, for_operators=f"The engine at {place}: {cause}.")
    cause = cause_of(error, authority_option="?ssl_ca_certs=", seconds=CONNECT_TIMEOUT_SECONDS)
    if isinstance(error, RedisConnectionError) and url.startswith("redis://") and "closed by server" in text:
        cause += "; where it speaks TLS only, the URL begins with rediss://"
    return StoreUnavailable(
        translated.message, for_operators=f"The engine at {place} cannot be reached: {cause}."
    )


def credentials_fault(error: BaseException) -> str | None:
    """What to say when the server refuses who we are; None when that is not what is wrong."""
    text = str(error)
    if text.startswith(_REFUSALS) or "invalid username-password pair" in text:
        return f"it refuses the user and password of the URL ({text.partition(chr(10))[0].rstrip('.')})"
    return None


def replica_warning(url: str, replication: dict[str, Any]) -> str | None:
    """What to say of an engine that is a replica, by its INFO; None of a primary."""
    if replication.get("role", "master") == "master":
        return None
    primary = f"{replication.get('master_host', '?')} port {replication.get('master_port', '?')}"
    return (
        f"The engine at {without_secret(url)} is a replica of {primary} and takes no writes: name the "
        "primary in CARTSTORE_REDIS_URL, or promote this one."
    )


def durability_warning(persistence: dict[str, Any], fsync: str | None) -> str | None:
    """What mode `engine` loses with this persistence in a crash of the engine's machine; None where nothing.

    `fsync`: the engine's `appendfsync`, None where it does not tell.
    """
    if persistence.get("aof_enabled") == 1 and fsync in ("always", None):
        return None
    found = f"appendfsync is {fsync}" if persistence.get("aof_enabled") == 1 else "it has no append-only file"
    return (
        f"CARTSTORE_CHECKOUT_ACK is engine, but of the engine {found}: a crash of its machine loses "
        "acknowledged checkouts that no worker has archived yet. Set appendonly yes and appendfsync always, "
        "or CARTSTORE_CHECKOUT_ACK to archived."
    )
