"""Owns the life of one child process: spawn, watch, stop, kill. Knows nothing of what runs in it.

A child never outlives us by accident: the kernel sends it its stop signal when the thread that spawned
it is gone, SIGKILL of our process included. Spawn therefore in a thread that lives as long as the child
is wanted (the main thread or the event loop's), never in a pool.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cartstore.errors import StoreUnavailable

PR_SET_PDEATHSIG = 1
"""prctl option: the signal that a process gets when the thread that spawned it ends."""

_LOG_TAIL_BYTES = 2_000
LOG_OF_START_BYTES = 256 * 1_024
POLL_SECONDS = 0.01
"""Pause between two looks at a child that is starting or stopping."""

LEFTOVER_SECONDS = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


def check_libc(result: int, call: str) -> None:
    """Raise OSError with errno when a libc call (made through `ctypes`) failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def prctl(option: int, argument: int, argument2: int = 0) -> None:
    """Call prctl(2); OSError when the kernel refuses."""
    check_libc(_libc.prctl(option, argument, argument2, 0, 0), "prctl")


class Process:
    """One program and the process that runs it, if any. Subclasses say what is run and when it is ready.

    Not safe for use by several threads.
    """

    stop_signal: signal.Signals = signal.SIGTERM
    """What asks the program to finish its work and exit."""

    def __init__(
        self,
        name: str,
        log: Path,
        argv: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        inherited_fds: Sequence[int] = (),
    ) -> None:
        """`name` is for messages. File descriptors other than `inherited_fds` are closed in the child."""
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._environment = os.environ if environment is None else environment
        self._inherited_fds = list(inherited_fds)
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def argv(self) -> list[str]:
        """The command line. It is public on the machine: no secret belongs here."""
        return self._argv

    def identity(self) -> Callable[[], None] | None:
        """What the child does to become the user it runs as, or None to stay ours."""
        return None

    def prepare(self, leftover_seconds: float = LEFTOVER_SECONDS) -> None:
        """Do what must be done once before `spawn`; may block, leaves no process behind.

        A process that an earlier supervisor left is waited for, then killed after `leftover_seconds`.
        """

    def repair(self) -> bool:
        """Put right what ended the child before it was ready. Whether that was done, so that `spawn` is worth
        another try. May block."""
        return False

    def ready(self) -> bool:
        """Whether the child does its work. StoreUnavailable when it has ended instead."""
        self.raise_if_ended()
        return True

    @property
    def pid(self) -> int | None:
        """The process id while the child lives, else None."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def spawn(self) -> None:
        """Start the child and return at once; `ready` tells when it can be used."""
        parent, become, stop_signal = os.getpid(), self.identity(), self.stop_signal

        def in_child() -> None:
            if become is not None:
                become()
            # After the change of user, which would clear it.
            prctl(PR_SET_PDEATHSIG, stop_signal)
            # Our death between fork and prctl would have sent no signal.
            if os.getppid() != parent:
                os._exit(1)

        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._child = subprocess.Popen(  # noqa: S603 (command lines are our own)
                self.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self._environment),
                pass_fds=self._inherited_fds,
                # A session of its own: Ctrl-C must reach the supervisor only, which then stops its
                # children in order.
                start_new_session=True,
                preexec_fn=in_child,
            )

    def start(self, timeout_seconds: float = 60.0) -> None:
        """`prepare`, `spawn` and block until ready. StoreUnavailable when that takes too long."""
        self.prepare()
        self.spawn()
        deadline = time.monotonic() + timeout_seconds
        while not self._ready_or_repaired():
            if time.monotonic() > deadline:
                self.kill()
                raise StoreUnavailable(self.complaint(f"was not ready within {timeout_seconds:g} s"))
            time.sleep(POLL_SECONDS)

    def _ready_or_repaired(self) -> bool:
        try:
            return self.ready()
        except StoreUnavailable:
            if not self.repair():
                raise
        self.spawn()
        return False

    def poll(self) -> int | None:
        """The exit status of an ended child; None while it lives."""
        return None if self._child is None else self._child.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to a living child; nothing otherwise."""
        if self._child is not None:
            self._child.send_signal(number)

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Ask the child to end and wait; kill it after `timeout_seconds`. No child: nothing."""
        if self._child is None:
            return
        self.send(self.stop_signal)
        try:
            self._child.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self._child = None

    def kill(self) -> None:
        """End the child with SIGKILL, as a power failure would, and reap it."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def raise_if_ended(self) -> None:
        """StoreUnavailable, with the last log lines, when the child has ended by itself."""
        status = self.poll()
        if status is not None:
            raise StoreUnavailable(self.complaint(f"ended with status {status}"))

    def log_tail(self) -> str:
        """The end of what this child has logged, at most some 2,000 characters."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            # It begins anew when it was shortened meanwhile.
            start = self._log_start if self._log_start <= size else 0
            log.seek(max(start, size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    def log_of_start(self) -> str:
        """What this child has logged since it was spawned, at most LOG_OF_START_BYTES from its beginning."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read(LOG_OF_START_BYTES).decode(errors="replace")

    def complaint(self, what: str) -> str:
        """One readable message on what went wrong with this child."""
        last = self._telling(self.log_tail().splitlines())
        return f"{self.name} {what}; see {self.log}" + (f" ({' | '.join(last)})" if last else "")

    def _telling(self, lines: Sequence[str]) -> Sequence[str]:
        """What of the end of its log says most of what went wrong."""
        return lines[-3:]


def pid_of_ours(pid_file: Path, mark: str) -> int | None:
    """The process that `pid_file` names on its first line, if it lives and `mark` is in its command line.

    The mark is what tells our process from a stranger that got the same number after a restart.
    """
    try:
        pid = int(pid_file.read_text().split()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (OSError, ValueError, IndexError):
        return None
    return pid if mark in command else None


def end_leftover(pid_file: Path, mark: str, number: signal.Signals, timeout_seconds: float) -> None:
    """End what an earlier, killed supervisor left running; two servers on one folder would destroy it.

    Its children got their stop signal when it died, so mostly this only waits for them to finish.
    """
    deadline = time.monotonic() + timeout_seconds
    pid = pid_of_ours(pid_file, mark)
    if pid is None:
        return
    _signal(pid, number)
    while pid_of_ours(pid_file, mark) == pid:
        if time.monotonic() > deadline:
            _signal(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def end_leftover_children(pid_file: Path, module: str, timeout_seconds: float) -> bool:
    """The same for Python children: every number in the file whose process runs `module`.

    Returns whether there is such a file at all, which says that the supervisor before did not stop cleanly.
    """
    try:
        pids = [int(line) for line in pid_file.read_text().split()]
    except (OSError, ValueError):
        return pid_file.exists()
    deadline = time.monotonic() + timeout_seconds
    left = [pid for pid in pids if _runs(pid, module)]
    for pid in left:
        _signal(pid, signal.SIGTERM)
    while left := [pid for pid in left if _runs(pid, module)]:
        if time.monotonic() > deadline:
            for pid in left:
                _signal(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    return True


def _runs(pid: int, module: str) -> bool:
    """Whether a process lives and is `python -m module`. A zombie has no command line."""
    try:
        return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
