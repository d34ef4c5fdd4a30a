"""The multiplexed connection, sending sooner than at the end of the turn: for an application that lets all
requests begin as they come. Gathered to the end of a crowded turn their calls would leave late, and the floor
under the HTTP figures would lie a fifth lower with 32 connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cartstore.redis.caller import Reply
from cartstore.redis.scripts import Script
from cartstore.redis.wire import WireCaller

WRITE_CALLS: Final = 8
"""Of 1, 4, 8, 16 and 32 calls in one write the best with 32 connections; with 128 connections 16 and 32 calls
are better by 2%."""


class EagerCaller(WireCaller):
    async def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Reply:
        if len(self._waiting) >= WRITE_CALLS:
            self._flush()
        return await super().call(script, keys, args)
