"""The gate of a partition: which engine the scripts may work on. Owns reading and opening it; when it may be
opened is decided in recovery/gate.py."""

from __future__ import annotations

from typing import Final, Literal, cast, get_args

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cartstore.errors import ConfigurationError
from cartstore.layout import LAYOUT, LAYOUT_BEFORE, PARTITIONS, layout_refusal
from cartstore.redis.caller import ScriptCaller, translate
from cartstore.redis.keys import Keys
from cartstore.redis.scripts import script

DiskMark = Literal["open", "low", "out"]
"""How much room the disk has: enough; too little for new work; none, so that nothing is written."""

_ADMITTING: Final = frozenset(get_args(DiskMark))

_EXTENDED_AT_ONCE = 100
"""Payments whose windows one script extends."""


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """The gate as it was read. All empty or 0 when the engine has none."""

    state: str = ""
    identity: str = ""
    epoch: int = 0
    seq: int = 0
    change: int = 0
    lifetime_ms: int = 0
    fenced_at_ms: int = 0
    fenced_because: str = ""
    """What the outbox was found to lack, for people to read; empty after a restart of the engine."""
    beat: int = 0
    """Grows while somebody rebuilds the partition."""
    used: str = ""
    """How far it is noted which payments there ever were (recovery/used.py)."""
    progress: str = ""
    """How far the rebuild is, for people to read."""
    salvages: int = 0
    """How often the engine's log was damaged and was salvaged (embedded/salvage.py)."""
    partitions: int = PARTITIONS
    layout: int = LAYOUT
    """Of the keys; an engine that has no gate takes ours."""

    @property
    def is_of_layout_before(self) -> bool:
        """Whether the engine has to be taken over."""
        return self.exists and (self.partitions, self.layout) == (PARTITIONS, LAYOUT_BEFORE)

    @property
    def exists(self) -> bool:
        return bool(self.state)

    def admits(self, identity: str) -> bool:
        """Whether scripts of this engine pass."""
        return self.state in _ADMITTING and self.identity == identity

    def check_layout(self) -> None:
        """Raises ConfigurationError for an engine that this version can neither use nor take over."""
        if (self.partitions, self.layout) != (PARTITIONS, LAYOUT) and not self.is_of_layout_before:
            raise _other_layout(self.partitions, self.layout)


async def read_gate(client: Redis, keys: Keys) -> Gate:
    """Raises StoreUnavailable."""
    try:
        fields = cast(dict[str, str], await client.hgetall(keys.gate))
    except (RedisError, OSError, TimeoutError) as error:
        raise translate(error, sent=False) from error
    return Gate(
        # Before layout 5 it was in another field: scripts of that layout find no state, so they pass nowhere.
        state=fields.get("status") or fields.get("state", ""),
        identity=fields.get("identity", ""),
        epoch=int(fields.get("epoch", 0)),
        seq=int(fields.get("seq", 0)),
        change=int(fields.get("change", 0)),
        lifetime_ms=int(fields.get("lifetime_ms", 0)),
        fenced_at_ms=int(fields.get("fenced_at", 0)),
        fenced_because=fields.get("fenced_because", ""),
        beat=int(fields.get("beat", 0)),
        used=fields.get("used", ""),
        progress=fields.get("progress", ""),
        salvages=int(fields.get("salvages", 0)),
        partitions=int(fields.get("partitions", PARTITIONS)),
        layout=int(fields.get("layout", LAYOUT)),
    )


async def mark_disk(caller: ScriptCaller, keys: Keys, mark: DiskMark) -> bool:
    """Set how much room the disk has in the gate, for every process; whether the gate says so now. A gate
    that is fenced or rebuilt keeps its state, and is opened without a mark: call this again and again.

    Raises StoreUnavailable, OutcomeUnknown.
    """
    reply = await caller.call(script("gate_mark"), (keys.gate,), (mark,))
    return bool(reply[1] == mark)


def _other_layout(partitions: int | str, layout: int | str) -> ConfigurationError:
    if str(partitions) != str(PARTITIONS):
        return ConfigurationError(
            f"The engine holds {partitions} partitions; this version wants {PARTITIONS}."
        )
    return ConfigurationError(layout_refusal("The engine", layout))


async def begin_rebuild(
    caller: ScriptCaller, keys: Keys, *, seen: Gate, epoch: int, seq: int, change: int, lifetime_ms: int
) -> int | None:
    """Shut the gate for everybody but the bearer of `caller`'s token, in `epoch`.

    Gives the time (ms) at which the partition was fenced, 0 if the engine cannot tell; None when the gate is
    not the one that was `seen`: another rebuild is under way or done.
    """
    reply = await caller.call(
        script("gate_rebuild"),
        (keys.gate,),
        (epoch, seq, change, lifetime_ms, PARTITIONS, LAYOUT, seen.epoch),
    )
    return int(reply[1]) if reply[0] == "OK" else None


async def extend_windows(
    caller: ScriptCaller, client: Redis, keys: Keys, *, seen: Gate, since_ms: int
) -> bool:
    """Give every payment that was pending at `since_ms` the time back that has passed since. Once per
    payment and epoch, however often it is called.

    False: the gate is not the one that was seen. Raises StoreUnavailable, OutcomeUnknown.
    """
    try:
        found = await client.zrange(keys.due, f"({since_ms}", "+inf", byscore=True)
    except (RedisError, OSError, TimeoutError) as error:
        raise translate(error, sent=False) from error
    payment_ids = cast(list[str], found)
    for start in range(0, len(payment_ids), _EXTENDED_AT_ONCE):
        page = payment_ids[start : start + _EXTENDED_AT_ONCE]
        reply = await caller.call(
            script("gate_extend_windows"), (keys.gate,), ("", seen.epoch, since_ms, *page)
        )
        if reply[0] != "OK":
            return False
    return True


async def open_gate(
    caller: ScriptCaller,
    keys: Keys,
    *,
    seen: Gate,
    epoch: int,
    seq: int,
    change: int,
    lifetime_ms: int,
) -> bool:
    """Open the gate for the engine that this call reaches, unless it changed since `seen`.

    False: another recoverer was first. Raises ConfigurationError when the engine holds another key layout
    or number of partitions.
    """
    reply = await caller.call(
        script("gate_open"),
        (keys.gate,),
        (
            seen.state,
            seen.identity,
            seen.epoch if seen.exists else "",
            epoch,
            seq,
            change,
            lifetime_ms,
            PARTITIONS,
            LAYOUT,
        ),
    )
    if reply[0] == "LAYOUT":
        raise _other_layout(reply[1], reply[2])
    return bool(reply[0] == "OK")
