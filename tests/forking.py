"""Runs a piece of a test in a forked child."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable

PATIENCE_SECONDS = 60


def told_by_child(act: Callable[[], object]) -> str:
    """What `act` returns in a child of this process, as text; a traceback if it raises. Nothing of the
    program that the child is a copy of is brought to its end."""
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of forks beside threads; the test runner has one.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        # A child that waits for ever would keep the test waiting as well.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE_SECONDS)
        try:
            told = str(act())
        except BaseException:
            told = traceback.format_exc()
        os.write(write_end, told.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as told_end:
        told = told_end.read().decode()
    os.waitpid(pid, 0)
    return told
