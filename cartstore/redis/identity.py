"""How the engine's identity is asked for, and how an answer is known to be the one to this question.

The identity carries the key layout of the process that asks: `5/run_id:master_replid`. So calls of a process
that an upgrade left behind do not pass the gate, although they reach the right engine.

Replies name no question: they are matched by their order alone. Should they ever be shifted, any text could
stand where the identity is expected, and calls that carry a wrong identity fence the shop. So the question is
framed by a nonce that the engine echoes: between two echoes of it there is nothing but the answer.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any, Final

from cartstore.layout import LAYOUT

_RUN_ID: Final = re.compile(r"^run_id:(\S+)", re.MULTILINE)
_REPLICATION_ID: Final = re.compile(r"^master_replid:(\S+)", re.MULTILINE)

SHIFTED: Final = "The engine's replies do not belong to our questions; the connection is dropped."


def identity_question() -> tuple[str, tuple[tuple[str, str], ...]]:
    """A nonce, and the commands that ask for the identity; they leave together."""
    nonce = secrets.token_hex(16)
    return nonce, (("ECHO", nonce), ("INFO", "server"), ("INFO", "replication"), ("ECHO", nonce))


def identity_in(nonce: str, replies: Sequence[Any]) -> str | None:
    """`<layout>/run_id:master_replid`; None when these are not the replies to the question of this nonce."""
    first, server, replication, last = (
        reply.decode(errors="replace") if isinstance(reply, bytes) else reply for reply in replies
    )
    if first != nonce or last != nonce or not isinstance(server, str) or not isinstance(replication, str):
        return None
    run_id, replication_id = _RUN_ID.search(server), _REPLICATION_ID.search(replication)
    return f"{LAYOUT}/{run_id[1]}:{replication_id[1]}" if run_id and replication_id else None
