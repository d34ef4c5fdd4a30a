"""The jobs as RQ knows them. Their names are a contract on the wire; what they do is in duties.py.

Every job takes the partition's index and nothing else: all that it works on is found in the stores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cartstore.errors import ContractError

if TYPE_CHECKING:
    from cartstore_workers.queues import JobName
    from cartstore_workers.runtime import Runtime

_runtime: Runtime | None = None


def install(runtime: Runtime | None) -> None:
    """Set what carries the jobs of this process out."""
    global _runtime
    _runtime = runtime


def drain_outbox(partition: int = 0) -> None:
    """Carry events from the engine into the record."""
    _run("drain_outbox", partition)


def release_due(partition: int = 0) -> None:
    """Release holds whose time is over."""
    _run("release_due", partition)


def expire_payments(partition: int = 0) -> None:
    """Release the orders of payments whose window is over."""
    _run("expire_payments", partition)


def snapshot_carts(partition: int = 0) -> None:
    """Carry carts that changed into the record."""
    _run("snapshot_carts", partition)


def reconcile(partition: int = 0) -> None:
    """Compare a further piece of the engine with the record."""
    _run("reconcile", partition)


def recover(partition: int = 0) -> None:
    """Open the gate again after a restart of the engine."""
    _run("recover", partition)


def apply_retention(partition: int = 0) -> None:
    """Remove from the record what it keeps no longer."""
    _run("apply_retention", partition)


def _run(name: JobName, partition: int) -> None:
    if _runtime is None:
        raise ContractError("These jobs run in `python -m cartstore_workers`, not in a plain RQ worker.")
    if partition == 0:
        _runtime.run(name)
