"""Signs that long work goes on. Owns nothing but the way from who works to who watches.

A drain of a long backlog, a rebuild or a round of reconcile may take minutes; whoever watches the process
must not take that for a process that hangs. The worker says who is told, per task.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

_listener: ContextVar[Callable[[], None] | None] = ContextVar("cartstore progress", default=None)


def tell(listener: Callable[[], None]) -> None:
    """Have the progress of this task, and of tasks that it makes from now on, told to `listener`."""
    _listener.set(listener)


def made() -> None:
    """A piece of long work is done."""
    listener = _listener.get()
    if listener is not None:
        listener()
