"""What a killed server leaves: processes that live on, and files with a number that is another's by now."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from acceptance.running import eventually, is_alive
from chaos.tree_kill import kill_and_start_again

from cartstore.embedded import Database, Engine
from cartstore.embedded.leftovers import processes_on, remove_socket_lock
from cartstore.embedded.process import end_leftover_children

LOCK = ".s.PGSQL.5432.lock"


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cartstore-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def killed(folder: Path) -> Iterator[Database]:
    """A database whose server was killed with all its backends."""
    database = Database(folder / "postgres", durable=False)
    database.start()
    for pid in processes_on(folder / "postgres", ("postgres",)):
        os.kill(pid, signal.SIGKILL)
    database.kill()
    yield database
    database.kill()


@contextmanager
def stranger() -> Iterator[int]:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@contextmanager
def zombie() -> Iterator[int]:
    process = subprocess.Popen(["/bin/true"])
    # Ended, and nobody asked for its status: what is left where pid 1 does not reap.
    eventually(lambda: not is_alive(process.pid))
    yield process.pid
    process.wait()


@pytest.mark.parametrize("other", [stranger, zombie])
def test_database_starts_when_its_number_in_both_locks_is_another_process(
    killed: Database, folder: Path, other: object
) -> None:
    with other() as pid:  # type: ignore[operator]
        for lock in (folder / "postgres" / "postmaster.pid", folder / LOCK):
            lines = lock.read_text().splitlines()
            lock.write_text("\n".join([str(pid), *lines[1:], ""]))

        killed.start()

        assert killed.execute("SELECT 1") == "1"
        assert Path(f"/proc/{pid}").exists(), "the other process is left alone"


def test_database_starts_when_its_socket_lock_was_cut_short(killed: Database, folder: Path) -> None:
    (folder / LOCK).write_text(f"{os.getpid()}")

    killed.start()

    assert killed.execute("SELECT 1") == "1"


def test_database_ends_an_orphaned_backend_before_it_starts(folder: Path) -> None:
    database = Database(folder / "postgres", durable=False)
    database.start()
    server = database.pid
    assert server is not None
    orphans = [pid for pid in processes_on(folder / "postgres", ("postgres",)) if pid != server]
    # It can not notice that its server is gone.
    os.kill(orphans[0], signal.SIGSTOP)
    database.kill()

    database.start()

    assert database.execute("SELECT 1") == "1"
    assert not is_alive(orphans[0])
    database.kill()


def test_socket_lock_of_a_living_server_is_left(database: Database, server_folder: Path) -> None:
    lock = server_folder / LOCK

    remove_socket_lock(lock, "postgres")

    assert lock.exists()
    assert database.execute("SELECT 1") == "1"


def test_creation_that_lives_on_is_ended_before_another_begins(folder: Path) -> None:
    program = folder / "initdb"
    shutil.copy("/bin/sleep", program)
    new = folder / "postgres.new"
    new.mkdir()
    with subprocess.Popen([program, "30"], cwd=new) as orphan:
        eventually(lambda: processes_on(new, ("initdb",)))
        database = Database(folder / "postgres", durable=False)

        database.prepare()

        assert orphan.wait() == -signal.SIGKILL
    assert (folder / "postgres" / "PG_VERSION").exists()


def test_engine_removes_half_a_log_that_a_killed_rewrite_left(folder: Path) -> None:
    engine = Engine(folder / "engine", password="x")
    left = folder / "engine" / "temp-rewriteaof-bg-17.aof"
    left.parent.mkdir()
    left.write_text("half of one")

    engine.prepare()

    assert not left.exists()


def test_children_of_a_killed_up_are_ended_and_nobody_else(folder: Path) -> None:
    (folder / "cartstore_worker.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    argv = [sys.executable, "-m", "cartstore_worker"]
    with (
        subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE) as child,
        stranger() as other,
        zombie() as dead,
    ):
        assert child.stdout is not None
        child.stdout.readline()
        pid_file = folder / "worker.pid"
        pid_file.write_text(f"{child.pid}\n{other}\n{dead}\n")

        was_there = end_leftover_children(pid_file, "cartstore_worker", timeout_seconds=30)

        assert was_there
        assert child.wait() == -signal.SIGTERM
        assert is_alive(other)
    pid_file.unlink()
    assert not end_leftover_children(pid_file, "cartstore_worker", timeout_seconds=0)


async def test_shop_starts_and_keeps_its_promises_when_its_whole_tree_is_killed(folder: Path) -> None:
    found = await kill_and_start_again(folder, times=5, seed=1)

    assert found.violations == []
    assert len(found.seconds_until_ready) == 3
    assert found.orders > 0
