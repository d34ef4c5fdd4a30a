"""The multiplexed connection: every script call of one event loop goes through one connection, and calls made
in one turn of the loop leave in few writes.

    endpoint.py     where the engine is and how it is greeted, from the URL that redis-py takes
    calls.py        one call on its way, the bytes of a command, and what it means to who waits when it fails
    several.py      calls that leave as one command
    connection.py   one connection: packing, matching replies, the engine's identity
    caller.py       WireCaller: waiting calls, deadlines, connecting again

It refuses everything that is no script call: transactions, subscriptions and blocking commands would hold up
or reorder the calls of others, and go through redis-py. Why it is so is in docs/decisions/0007-wire.md.
"""

from cartstore.redis.wire.caller import WireCaller
from cartstore.redis.wire.endpoint import Endpoint

__all__ = ["Endpoint", "WireCaller"]
