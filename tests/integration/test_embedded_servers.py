"""The private servers: they start, keep what they were given, survive kill -9 and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from ctypes.util import find_library
from pathlib import Path

import asyncpg
import pytest
import redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from cartstore.embedded import Database, Engine, identity
from cartstore.errors import StoreUnavailable

PATIENCE_SECONDS = 30.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a space in its name: such paths go through URLs and config files."""
    folder = Path(tempfile.mkdtemp(prefix="cart store-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_engine(folder: Path) -> Iterator[Engine]:
    engine = Engine(folder / "engine", password='a "b" c+/&#')
    engine.start()
    yield engine
    engine.kill()


@pytest.fixture
def own_database(folder: Path) -> Iterator[Database]:
    database = Database(folder / "postgres", durable=False)
    database.start()
    yield database
    database.kill()


def wait_until_gone(pid: int) -> None:
    """Until the process is dead; a zombie that nobody reaps is dead too."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_engine_runs_on_jemalloc_when_the_machine_has_it(own_engine: Engine) -> None:
    mapped = Path(f"/proc/{own_engine.pid}/maps").read_text()
    told = own_engine.log.read_text()

    assert ("jemalloc" in mapped) is (find_library("jemalloc") is not None)
    assert "ld.so" not in told  # what the dynamic linker says when it cannot load a library


def test_engine_answers_by_socket_and_by_port(own_engine: Engine) -> None:
    with redis.Redis.from_url(own_engine.url(1)) as client:
        client.set("a", "b")

    with redis.Redis.from_url(own_engine.tcp_url(1), decode_responses=True) as client:
        assert client.get("a") == "b"
        assert client.config_get("appendfsync", "maxmemory-policy", "save") == {
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "save": "",
        }


def test_engine_refuses_when_password_is_missing(own_engine: Engine) -> None:
    with redis.Redis(port=own_engine.port, retry=None) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_engine_password_is_in_a_private_file_only(own_engine: Engine, folder: Path) -> None:
    assert (folder / "engine" / "engine.conf").stat().st_mode & 0o777 == 0o600
    assert b"c+/&#" not in Path(f"/proc/{own_engine.pid}/cmdline").read_bytes()


def test_engine_keeps_data_and_port_when_killed(own_engine: Engine) -> None:
    with redis.Redis.from_url(own_engine.url()) as client:
        client.set("kept", 1)
    port = own_engine.port

    own_engine.kill()
    own_engine.start()

    assert own_engine.port == port
    with redis.Redis.from_url(own_engine.tcp_url()) as client:
        assert client.get("kept") == b"1"


def test_engine_takes_another_port_when_its_own_is_taken(own_engine: Engine) -> None:
    own_engine.stop()
    with Listener(own_engine.port):
        own_engine.start()

        with redis.Redis.from_url(own_engine.tcp_url()) as client:
            assert client.ping()


def test_engine_takes_another_port_when_it_is_taken_between_choice_and_bind(
    own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_engine.stop()
    free, taken = own_engine._choose_port, own_engine.port
    choices = iter([lambda: taken])
    monkeypatch.setattr(own_engine, "_choose_port", lambda: next(choices, free)())
    with Listener(taken):
        own_engine.start()

        assert own_engine.port != taken
        with redis.Redis.from_url(own_engine.tcp_url()) as client:
            assert client.ping()


def test_engine_start_tells_why_when_it_cannot(folder: Path) -> None:
    engine = Engine(folder / "engine", password="x", config=["no-such-directive 1"])

    with pytest.raises(StoreUnavailable, match=r"engine ended with status 1.*no-such-directive"):
        engine.start()


def test_engine_start_gives_up_when_it_is_never_ready(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine may look so late that the engine is ready by then.
    monkeypatch.setattr(Engine, "ready", lambda _: False)
    engine = Engine(folder / "engine", password="x")

    with pytest.raises(StoreUnavailable, match="not ready within 0 s"):
        engine.start(timeout_seconds=0)

    assert engine.pid is None


async def test_database_takes_connections_of_both_drivers(own_database: Database) -> None:
    connection = await asyncpg.connect(own_database.url())
    assert await connection.fetchval("SHOW server_encoding") == "UTF8"
    assert await connection.fetchval("SHOW data_checksums") == "on"
    assert await connection.fetchval("SHOW listen_addresses") == ""
    await connection.close()

    url = own_database.url().replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url)
    async with engine.connect() as alchemy:
        assert (await alchemy.execute(text("SELECT current_database()"))).scalar() == "cartstore"
    await engine.dispose()


def test_database_is_durable_by_default(folder: Path) -> None:
    database = Database(folder / "postgres")
    database.start()

    settings = [database.execute(f"SHOW {name}") for name in ("fsync", "synchronous_commit")]
    database.stop()

    assert settings == ["on", "on"]


def test_database_keeps_data_when_killed(folder: Path) -> None:
    database = Database(folder / "postgres")
    database.start()
    database.execute("CREATE TABLE kept AS SELECT 1 AS n", "cartstore")

    database.kill()
    database.start()
    kept = database.execute("SELECT n FROM kept", "cartstore")
    database.stop()

    assert kept == "1"


def test_database_starts_when_a_stranger_has_the_old_number(own_database: Database, folder: Path) -> None:
    own_database.kill()
    pid_file = folder / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    with subprocess.Popen(["/bin/sleep", "600"]) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:], ""]))

        own_database.start()
        answer, is_unhurt = own_database.execute("SELECT 1"), is_alive(stranger.pid)
        stranger.kill()

    assert (answer, is_unhurt) == ("1", True)


def test_database_says_what_is_wrong_with_a_statement(own_database: Database) -> None:
    with pytest.raises(StoreUnavailable, match="nothing_here"):
        own_database.execute("SELECT * FROM nothing_here")


def test_database_start_tells_why_when_it_cannot(folder: Path) -> None:
    database = Database(folder / "postgres", durable=False, config=["no_such_setting=1"])

    with pytest.raises(StoreUnavailable, match=r"database ended with status 1.*no_such_setting"):
        database.start()


def test_database_creation_starts_over_when_an_earlier_one_was_cut_short(folder: Path) -> None:
    (folder / "postgres.new").mkdir()
    (folder / "postgres.new" / "PG_VERSION").write_text("18\n")
    database = Database(folder / "postgres", durable=False)

    database.start()
    answer = database.execute("SELECT 1", "cartstore")
    database.stop()

    assert answer == "1"
    assert not (folder / "postgres.new").exists()


def test_database_creation_tells_why_when_it_cannot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cartstore.embedded.database.DATABASE", "no such name")
    database = Database(folder / "postgres", durable=False)

    with pytest.raises(StoreUnavailable, match=r'could not be created in .*"such" not recognized.*$'):
        database.start()

    assert not (folder / "postgres").exists()


def test_database_that_ended_is_told_with_the_cause_when_more_was_logged_after_it(tmp_path: Path) -> None:
    log = tmp_path / "postgres.log"
    log.write_text(
        'LOG:  starting\nFATAL:  could not write to file "pg_wal/xlogtemp.7": No space left on device\n'
        "LOG:  startup process (PID 7) exited with exit code 1\nLOG:  terminating any other processes\n"
        "LOG:  shutting down due to startup process failure\nLOG:  database system is shut down\n"
    )

    said = Database(tmp_path / "postgres", log=log).complaint("ended with status 1")

    assert "No space left on device" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")
def test_database_runs_as_nobody_when_root_may_not_make_a_namespace(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_in_namespace", lambda: refuse)
    database = Database(folder / "postgres", durable=False)
    database.start()
    owner = (folder / "postgres").owner()
    database.kill()
    monkeypatch.undo()

    # A later start in a place that allows namespaces must still be able to use the folder.
    database.start()
    answer = database.execute("SELECT 1")
    database.stop()

    assert (owner, answer) == ("nobody", "1")


SUPERVISOR = """
import sys, time
from pathlib import Path
from cartstore.embedded import Database, Engine
folder = Path(sys.argv[1])
parts = [Engine(folder / "engine", password="x"), Database(folder / "postgres", durable=False)]
for part in parts:
    part.start()
print(*(part.pid for part in parts), flush=True)
time.sleep(600)
"""


def test_servers_end_when_their_supervisor_is_killed(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, folder], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        supervisor.kill()

    for pid in pids:
        wait_until_gone(pid)

    assert len(pids) == 2


def test_servers_left_running_are_ended_before_new_ones_start(
    own_engine: Engine, own_database: Database, folder: Path
) -> None:
    old = [own_engine.pid, own_database.pid]
    engine = Engine(folder / "engine", password="x")
    database = Database(folder / "postgres", durable=False)

    # The old objects stay unaware, as those of a dead supervisor would.
    engine.start()
    database.start()
    new = [engine.pid, database.pid]
    answer = database.execute("SELECT 1")
    engine.stop()
    database.stop()

    assert answer == "1"
    assert not any(is_alive(pid) for pid in old if pid)
    assert not set(old) & set(new)


def test_engine_left_hanging_is_killed_before_a_new_one_starts(own_engine: Engine, folder: Path) -> None:
    own_engine.send(signal.SIGSTOP)
    engine = Engine(folder / "engine", password="x")

    engine.prepare(leftover_seconds=0.1)

    assert own_engine.poll() == -signal.SIGKILL


def refuse() -> None:
    raise PermissionError("no namespaces here")


class Listener:
    """Something else that listens on a loopback port."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __enter__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", self.port))

    def __exit__(self, *_: object) -> None:
        self.socket.close()
