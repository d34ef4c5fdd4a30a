"""The rights that scripts need of the engine's user. Owns their list, and how missing ones are told.

An engine undoes nothing of a script in which it refuses a command. So the rights are proved before the first
script that writes: when a store is opened, and on each new connection of the hot path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from cartstore.errors import ConfigurationError, StoreUnavailable
from cartstore.redis.diagnosis import engine_away
from cartstore.redis.keys import Keys
from cartstore.redis.scripts import script

_SEPARATOR: Final = "\x1f"

KEYED: Final[dict[str, str]] = {
    "EXISTS": "",
    "HDEL": "f",
    "HEXISTS": "f",
    "HGET": "f",
    "HGETALL": "",
    "HINCRBY": "f 1",
    "HKEYS": "",
    "HLEN": "",
    "HMGET": "f",
    "HSET": "f v",
    "HSETNX": "f v",
    "PERSIST": "",
    "PEXPIRE": "1",
    "SADD": "m",
    "SISMEMBER": "m",
    "TYPE": "",
    "UNLINK": "",
    "XADD": "* f v",
    "XLEN": "",
    "XRANGE": "- +",
    "XREVRANGE": "+ -",
    "XTRIM": "MINID 0",
    "ZADD": "1 m",
    "ZCARD": "",
    "ZCOUNT": "0 1",
    "ZRANGE": "0 1",
    "ZRANGEBYSCORE": "0 1",
    "ZREM": "m",
    "ZREVRANGE": "0 1",
    "ZSCAN": "0",
    "ZSCORE": "m",
}
"""Commands on a key that scripts and the code beside them use, with arguments of the right shape."""

OTHERS: Final = (
    "TIME",
    "ECHO m",
    "INFO",
    "SCAN 0",
    "EVAL s 0",
    "EVALSHA s 0",
    "FCALL f 0",
)
"""Commands that name no key of ours. FUNCTION LOAD, CONFIG GET, PUBLISH and SUBSCRIBE are used where they are
allowed, and nothing depends on them."""

ON_EVERY_KEY: Final = ("HGET", "HSET", "ZADD", "ZREM")
"""Asked of each kind of key; the other commands of one kind: what an ACL allows, it allows for patterns."""


_KINDS: Final = 15
"""Kinds of keys that there are."""


class MissingRights(StoreUnavailable):
    """The engine's user lacks rights that scripts need."""


def wanted(keys: Keys) -> list[tuple[str, ...]]:
    """The commands, as words, that a store must be able to run."""
    every = (
        *(keys.gate, keys.outbox, keys.holding, keys.due, keys.activity, keys.cart("x"), keys.sku("x")),
        *(keys.holds("x"), keys.payment("x"), keys.order("x"), keys.orders("x"), keys.used(0)),
        *(keys.reference("x", "x"), keys.bought("x", "x"), keys.unloaded),
    )
    commands = [(name, keys.cart("x"), *rest.split()) for name, rest in KEYED.items()]
    commands += [(name, key, *KEYED[name].split()) for name in ON_EVERY_KEY for key in every]
    return [*dict.fromkeys(commands), *(tuple(text.split()) for text in OTHERS)]


def question(keys: Keys) -> tuple[str, ...]:
    """The command that asks which of these rights are missing."""
    commands = (_SEPARATOR.join(words) for words in wanted(keys))
    return ("EVAL", script("rights_check").text, "1", keys.gate, "", *commands)


def missing(reply: Sequence[str]) -> str:
    """The rights that the reply to `question` names, for people: commands, and keys where only some of them
    are forbidden. Empty: none is missing."""
    refused = [tuple(text.split(_SEPARATOR)) for text in reply[1:]]
    names = {words[0] for words in refused if words[0] not in ON_EVERY_KEY}
    by_key: dict[str, set[str]] = {}
    for words in refused:
        if words[0] in ON_EVERY_KEY:
            by_key.setdefault(words[0], set()).add(words[1])
    told = sorted(name.lower() for name in names)
    for name, refused_keys in sorted(by_key.items()):
        if len(refused_keys) == _KINDS:
            told.append(name.lower())
        else:
            told += [f"{name.lower()} on {key}" for key in sorted(refused_keys)]
    return ", ".join(told)


def refusal_of(reply: Sequence[str]) -> MissingRights | None:
    """The error to raise for the reply to `question`, if a right is missing."""
    told = missing(reply)
    return MissingRights(f"The engine's user lacks rights: {told}.") if told else None


async def check_rights(client: Redis, keys: Keys, url: str) -> None:
    """Raises ConfigurationError naming every right that is missing; StoreUnavailable, which tells operators
    why the engine of `url` cannot be reached."""
    command, *arguments = question(keys)
    try:
        reply: Any = await client.execute_command(command, *arguments)  # type: ignore[no-untyped-call]
    except NoPermissionError as error:
        raise ConfigurationError(
            f"The engine's user lacks rights: eval on {keys.gate}, and perhaps others, which cannot be asked"
            " for without it."
        ) from error
    except (RedisError, OSError, TimeoutError) as error:
        raise engine_away(url, error) from error
    if told := missing(reply):
        raise ConfigurationError(f"The engine's user lacks rights: {told}.")
