"""Affinity: which process and which event loop an object with connections belongs to.

A connection carries the questions of one process in one order. After a fork() the child has the same sockets,
and two processes that read from one socket take each other's replies. So in a child

* every object with connections refuses to work (`Affinity`, `in_child`), and
* the child's copy of every watched socket is replaced by one that is dead (`watch`). Whatever closes it
  there, the garbage collector, a driver or an event loop that the child goes on with, sends nothing to the
  server and takes nothing away from the parent. To close it instead would not do: a driver says goodbye
  first, and an event loop takes the socket out of an epoll set that it shares with the parent.

It refuses to guess: nothing is opened anew in the child. Forks that Python does not see (of a C library, in
which no Python code runs afterwards) are not covered.
"""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from asyncio.trsock import TransportSocket
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from cartstore.errors import OtherEventLoop, OtherProcess

_Connection = TypeVar("_Connection")

_running_loop = asyncio.get_running_loop

LOST: Final = cast(asyncio.AbstractEventLoop, object())
"""In a child, the loop of what belonged to its parent: never the running one."""


class Affinity:
    """Belongs to the process and the event loop of its first `check`."""

    __slots__ = ("__weakref__", "_loop")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        in_child(self._lose)

    def check(self) -> None:
        """Raise OtherProcess or OtherEventLoop, if the first check was in another process or loop."""
        loop = _running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                raise other_than(self._loop)
            self._loop = loop

    @property
    def is_lost(self) -> bool:
        """Whether this is a child of the process that it belongs to."""
        return self._loop is LOST

    def _lose(self) -> None:
        if self._loop is not None:
            self._loop = LOST


class ProcessAffinity:
    """Belongs to the process that made it: for what threads use, which have no event loop."""

    __slots__ = ("__weakref__", "is_lost")

    def __init__(self) -> None:
        self.is_lost = False
        """Whether this is a child of that process."""
        in_child(self._lose)

    def check(self) -> None:
        """Raise OtherProcess in a child."""
        if self.is_lost:
            raise OtherProcess

    def _lose(self) -> None:
        self.is_lost = True


def other_than(loop: asyncio.AbstractEventLoop) -> OtherProcess | OtherEventLoop:
    """The error of a call that does not come from `loop`."""
    return OtherProcess() if loop is LOST else OtherEventLoop()


# --- what happens in a child -----------------------------------------------------------------------

_listeners: set[weakref.WeakMethod[Callable[[], None]]] = set()
_watched: weakref.WeakKeyDictionary[Any, Callable[[Any], asyncio.BaseTransport | None]] = (
    weakref.WeakKeyDictionary()
)


def _dead_socket() -> int:
    """A descriptor that reads the end of the stream and refuses every write."""
    dead, other = socket.socketpair()
    other.close()
    return dead.detach()


_DEAD: Final = _dead_socket()
"""Opened at import: a child that has no descriptor left needs it as well."""


def in_child(method: Callable[[], None]) -> None:
    """Call a bound method in every child that is forked from now on, while its object lives. It must not
    block, raise, or touch an event loop."""
    _listeners.add(weakref.WeakMethod(method, _listeners.discard))


def watch(
    connection: _Connection, transport_of: Callable[[_Connection], asyncio.BaseTransport | None]
) -> None:
    """Cut a connection off in every child that is forked while it is open.

    `transport_of`: its transport at that time, None if it is closed. The transport itself is not kept:
    uvloop's for TLS take no weak references.
    """
    _watched[connection] = transport_of


def cut_off(transport: asyncio.BaseTransport) -> None:
    """In a child: let this transport's descriptor be a dead socket. The parent's is not touched."""
    connected: Any = transport.get_extra_info("socket")
    if connected is None:
        return
    if transport.is_closing() and not isinstance(connected, TransportSocket):
        # uvloop goes on telling the number of a descriptor that it has closed.
        return
    descriptor = connected.fileno()
    if descriptor >= 0:
        os.dup2(_DEAD, descriptor, inheritable=False)


def _on_forked() -> None:
    for connection, transport_of in list(_watched.items()):
        transport = transport_of(connection)
        if transport is not None:
            cut_off(transport)
    for listener in list(_listeners):
        method = listener()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_on_forked)
