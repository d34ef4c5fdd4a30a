"""The data dir: refused when it is not ours, its secrets private and stable, its lock exclusive."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from cartstore import datadir
from cartstore.datadir import DataDir, Services
from cartstore.errors import ConfigurationError

SERVICES = Services(
    pid=os.getpid(), redis_url="unix:///e", queue_url="unix:///e?db=1", database_url="postgresql:///c"
)


@pytest.fixture
def folder(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "shop")


def test_open_makes_a_private_folder_with_its_format(tmp_path: Path) -> None:
    folder = DataDir(tmp_path / "deep" / "shop")

    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert (folder.path / "format").read_text() == "1\n"


def test_open_takes_its_own_folder_again(folder: DataDir) -> None:
    secrets = folder.secrets()

    assert DataDir(folder.path).secrets() == secrets


def test_open_refuses_when_format_is_another(folder: DataDir) -> None:
    (folder.path / "format").write_text("2\n")

    with pytest.raises(ConfigurationError, match="format '2', but this cartstore uses '1'"):
        DataDir(folder.path)


def test_open_refuses_a_stranger_s_folder_and_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()

    with pytest.raises(ConfigurationError, match=r"is not a data dir of cartstore.*photos"):
        DataDir(tmp_path)

    assert os.listdir(tmp_path) == ["photos"]


def test_open_refuses_when_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("")

    with pytest.raises(ConfigurationError, match="cannot be used: File exists"):
        DataDir(tmp_path / "shop")


def test_open_refuses_an_absent_folder_when_it_may_not_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no data dir"):
        DataDir(tmp_path / "shop", create=False)

    assert not (tmp_path / "shop").exists()


def test_secrets_are_private_long_and_different(folder: DataDir, tmp_path: Path) -> None:
    secrets = folder.secrets()

    assert (folder.path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert len(secrets.jwt_secret) >= 32
    assert (
        len({secrets.jwt_secret, secrets.engine_password, DataDir(tmp_path / "b").secrets().jwt_secret}) == 3
    )


def test_secrets_are_the_same_for_all_when_many_ask_at_once(folder: DataDir) -> None:
    found: list[str] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        found.append(DataDir(folder.path).secrets().jwt_secret)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(found)) == 1


def test_secrets_are_refused_when_unreadable(folder: DataDir) -> None:
    (folder.path / "secrets.json").write_text("{")

    with pytest.raises(ConfigurationError, match=r"secrets\.json cannot be read"):
        folder.secrets()


def test_lock_is_refused_with_the_holder_s_number_when_held(folder: DataDir) -> None:
    with folder.lock():
        assert folder.is_locked()
        with pytest.raises(ConfigurationError, match=f"in use by another cartstore, process {os.getpid()}"):
            DataDir(folder.path).lock().__enter__()

    assert not folder.is_locked()


def test_lock_forgets_what_a_killed_holder_announced(folder: DataDir) -> None:
    folder.announce(SERVICES)

    with folder.lock():
        assert not (folder.path / "run" / "services.json").exists()


def test_services_are_told_while_their_holder_lives(folder: DataDir) -> None:
    with folder.lock():
        folder.announce(SERVICES)

        assert folder.services() == SERVICES
        assert (folder.path / "run" / "services.json").stat().st_mode & 0o777 == 0o600

    assert folder.services() is None


def test_services_of_a_killed_holder_are_not_told_under_its_successor_s_lock(folder: DataDir) -> None:
    with folder.lock():
        folder.announce(Services(pid=1, redis_url="", queue_url="", database_url=""))

        assert folder.services() is None


def test_write_pids_sets_one_number_a_line(folder: DataDir) -> None:
    file = folder.path / "run" / "api.pid"

    folder.write_pids("api", [12, 34])
    assert file.read_text() == "12\n34\n"

    folder.write_pids("api", [])
    assert not file.exists()


def test_log_file_is_put_aside_when_it_is_too_long(folder: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datadir, "LOG_BYTES_MAX", 3)
    log = folder.log_file("api")
    log.write_text("long")

    assert folder.log_file("api") == log
    assert not log.exists()
    assert log.with_name("api.log.1").read_text() == "long"


def test_empty_metrics_folder_drops_an_earlier_run_s_values(folder: DataDir) -> None:
    folder.empty_metrics_folder()
    (folder.metrics_folder / "counter_1.db").write_text("")

    folder.empty_metrics_folder()

    assert not list(folder.metrics_folder.iterdir())


def test_socket_folder_is_inside_when_the_path_is_short(folder: DataDir) -> None:
    assert folder.socket_folder() == folder.path / "run" or len(str(folder.path)) > 80


def test_socket_folder_is_a_private_temporary_one_when_the_path_is_long(tmp_path: Path) -> None:
    folder = DataDir(tmp_path / ("x" * 100))

    sockets = folder.socket_folder()

    assert len(str(sockets)) < 80
    assert sockets.stat().st_mode & 0o777 == 0o700
    assert DataDir(folder.path).socket_folder() == sockets
    folder.drop_socket_folder()
    assert not sockets.exists()


def test_socket_folder_is_another_when_the_noted_one_is_no_longer_private(tmp_path: Path) -> None:
    folder = DataDir(tmp_path / ("x" * 100))
    first = folder.socket_folder()
    first.chmod(0o777)

    second = folder.socket_folder()

    assert second != first
    first.rmdir()
    folder.drop_socket_folder()
    folder.drop_socket_folder()
    assert not re.search("sockets", str(os.listdir(folder.path / "run")))
