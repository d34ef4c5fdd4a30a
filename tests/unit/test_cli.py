"""The command line: what it takes, what it prints, and one clear line for everything that it refuses."""

from __future__ import annotations

import os
import runpy
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest

from cartstore import cli
from cartstore.datadir import DataDir
from cartstore.embedded.salvage import SalvageReport
from cartstore.errors import ConfigurationError, StoreUnavailable
from cartstore.settings import Settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CARTSTORE_"):
            monkeypatch.delenv(name)


def token(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["token", *arguments]) == 0
    return capsys.readouterr().out.strip()


def test_token_is_signed_with_the_data_dir_s_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = token(
        capsys, "--user", "ann", "--scope", "stock:write ops:read", "--data-dir", str(tmp_path / "d")
    )

    claims = jwt.decode(printed, DataDir(tmp_path / "d").secrets().jwt_secret, algorithms=["HS256"])

    assert claims["sub"] == "ann"
    assert claims["scope"] == "stock:write ops:read"
    assert claims["exp"] - claims["iat"] == 24 * 3600
    assert abs(claims["iat"] - time.time()) < 3600


def test_token_has_no_scope_and_the_wanted_ttl_when_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = token(capsys, "--user", "ann", "--ttl", "5", "--data-dir", str(tmp_path / "d"))

    claims = jwt.decode(printed, options={"verify_signature": False})

    assert "scope" not in claims
    assert claims["exp"] - claims["iat"] == 5


def test_token_follows_the_settings_when_they_are_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARTSTORE_JWT_SECRET", "s" * 32)
    monkeypatch.setenv("CARTSTORE_JWT_ISSUER", "shop")
    monkeypatch.setenv("CARTSTORE_JWT_AUDIENCE", "carts")

    printed = token(capsys, "--user", "ann", "--data-dir", str(tmp_path / "d"))

    claims = jwt.decode(printed, "s" * 32, algorithms=["HS256"], audience="carts", issuer="shop")
    assert claims["sub"] == "ann"
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("user", ["", "x" * 129, "a\x01b"])
def test_token_refuses_a_user_that_no_caller_can_be(
    user: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["token", "--user", user, "--data-dir", str(tmp_path / "d")]) == 2

    assert "--user takes 1 to 128 characters" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_token_says_so_when_it_makes_the_data_dir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["token", "--user", "ann", "--data-dir", str(tmp_path / "d")]

    cli.main(arguments)
    first = capsys.readouterr()
    cli.main(arguments)
    second = capsys.readouterr()

    assert first.err == f"cartstore: {tmp_path / 'd'} is new; the token is for the store made there.\n"
    assert first.out.count("\n") == 1
    assert second.err == ""


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CARTSTORE_PARTITIONS", "2", "it takes only 1"),
        ("CARTSTORE_NO_SUCH", "1", "CARTSTORE_NO_SUCH is not a setting"),
        ("CARTSTORE_RATE_LIMIT", "maybe", "CARTSTORE_RATE_LIMIT"),
    ],
)
def test_up_refuses_wrong_settings_in_one_line(
    name: str,
    value: str,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, value)

    assert cli.main(["up", "--data-dir", str(tmp_path / "d")]) == 2

    complaint = capsys.readouterr().err
    assert says in complaint
    assert complaint.count("\n") == 1
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["up", "--port", "70000"],
        ["up", "--port", "http"],
        ["up", "--processes", "0"],
        ["token"],
        ["token", "--user", "ann", "--ttl", "0"],
        ["catalog", "import"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)

    assert "usage: cartstore" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ConfigurationError("no"), 2, "cartstore: no\n"),
        (StoreUnavailable("no"), 1, "cartstore: no\n"),
        (
            PermissionError(13, "Permission denied", "/shop/lock"),
            1,
            "cartstore: /shop/lock: Permission denied\n",
        ),
        (OSError("odd"), 1, "cartstore: failed: odd\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_expected_errors_become_an_exit_status(
    error: BaseException,
    status: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "load_settings", fail)

    assert cli.main(["worker"]) == status
    assert capsys.readouterr().err == says


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize(
    ("arguments", "module", "passed"),
    [
        (["api", "--host", "::1", "--port", "9000"], "cartstore_api", ["--fd", "FD"]),
        (["worker"], "cartstore_workers", []),
    ],
)
def test_api_and_worker_become_the_program_with_complete_settings(
    arguments: list[str],
    module: str,
    passed: list[str],
    listener: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    became: list[Any] = []
    addresses: list[tuple[str, int]] = []

    def listen(host: str, port: int) -> socket.socket:
        addresses.append((host, port))
        return listener

    monkeypatch.setattr("cartstore.listening.listen", listen)
    monkeypatch.setattr(os, "execve", lambda *call: became.extend(call))
    monkeypatch.setenv("CARTSTORE_REDIS_URL", "redis://:secret@engine:1/0")
    monkeypatch.setenv("CARTSTORE_DATABASE_URL", "postgresql://database/c")

    cli.main([*arguments, "--data-dir", str(tmp_path / "d")])

    program, command, environment = became
    assert program == sys.executable
    descriptor = str(listener.fileno())
    assert command == [sys.executable, "-m", module, *(descriptor if it == "FD" else it for it in passed)]
    assert addresses == ([("::1", 9_000)] if module == "cartstore_api" else [])
    assert listener.get_inheritable() == bool(addresses)
    assert environment["CARTSTORE_REDIS_URL"] == "redis://:secret@engine:1/0"
    assert environment["CARTSTORE_QUEUE_URL"] == "redis://:secret@engine:1/1"
    assert environment["CARTSTORE_JWT_SECRET"] == DataDir(tmp_path / "d").secrets().jwt_secret
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor"],
        ["reconcile"],
        ["reconcile", "--dry-run"],
        ["recover"],
        ["unfreeze", "A"],
        ["migrate"],
        ["catalog", "list"],
        ["worker"],
        ["api"],
    ],
)
@pytest.mark.parametrize(("makes", "says"), [(False, "There is no data dir"), (True, "the folder is empty")])
def test_commands_that_need_a_store_make_none(
    arguments: list[str], makes: bool, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "d"
    if makes:
        folder.mkdir()

    assert cli.main([*arguments, "--data-dir", str(folder)]) == 2

    assert says in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == ([folder] if makes else [])


def test_import_makes_no_store_when_there_is_no_such_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["catalog", "import", str(tmp_path / "a.csv"), "--data-dir", str(tmp_path / "d")]

    assert cli.main(wanted) == 1

    assert "a.csv cannot be read: No such file or directory." in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "d").exists()


def test_commands_need_no_data_dir_when_the_settings_name_engine_and_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Settings] = []
    monkeypatch.setattr(cli, "_doctor", lambda _, settings: asked.append(settings) or 0)
    monkeypatch.setenv("CARTSTORE_REDIS_URL", "redis://engine")
    monkeypatch.setenv("CARTSTORE_DATABASE_URL", "postgresql://database/c")

    assert cli.main(["doctor", "--data-dir", str(tmp_path / "d")]) == 0

    assert asked[0].redis_url == "redis://engine"
    assert not (tmp_path / "d").exists()


def test_worker_writes_nothing_when_engine_database_and_secret_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *call: became.extend(call))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARTSTORE_REDIS_URL", "redis://engine:1/0")
    monkeypatch.setenv("CARTSTORE_DATABASE_URL", "postgresql://database/c")
    monkeypatch.setenv("CARTSTORE_JWT_SECRET", "s" * 32)

    cli.main(["worker"])

    assert became[2]["CARTSTORE_QUEUE_URL"] == "redis://engine:1/1"
    assert list(tmp_path.iterdir()) == []


def test_token_refuses_a_scope_that_the_api_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--user", "ann", "--scope", "stock:write stock:read", "--data-dir", str(tmp_path / "d")]

    assert cli.main(["token", *arguments]) == 2

    assert "no 'stock:read'; there are admin, catalog:write, stock:write" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_package_runs_as_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cartstore", "--help"])

    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("cartstore", run_name="__main__")

    assert "usage: cartstore " in capsys.readouterr().out


def test_worker_refuses_when_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["worker", "--data-dir", str(tmp_path / "d")]) == 2

    assert "There is no data dir" in capsys.readouterr().err


def test_settings_have_a_variable_for_everything_that_children_get() -> None:
    from cartstore.embedded.parts import child_environment

    settings = Settings(
        redis_url="redis://a", database_url="postgresql://b", queue_url="redis://c", jwt_secret="d" * 32
    )

    passed = child_environment(settings, Path("/metrics"))

    assert {name: passed[name] for name in passed if name.startswith(("CARTSTORE_", "PROMETHEUS_"))} == {
        "CARTSTORE_REDIS_URL": "redis://a",
        "CARTSTORE_DATABASE_URL": "postgresql://b",
        "CARTSTORE_QUEUE_URL": "redis://c",
        "CARTSTORE_JWT_SECRET": "d" * 32,
        "PROMETHEUS_MULTIPROC_DIR": "/metrics",
    }


def test_doctor_names_every_damaged_log_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def examine(*_: object) -> dict[str, Any]:
        return {}

    monkeypatch.setattr("cartstore.doctor.examine", examine)
    engine = DataDir(tmp_path / "d").path / "engine"
    for number in (1, 2):
        kept = engine / f"damaged-{number}"
        kept.mkdir(parents=True)
        report = SalvageReport(
            at=f"2026-01-0{number}T00:00:00+00:00",
            damaged_file="appendonly.aof.1.incr.aof",
            damaged_at=number,
            kept_bytes=0,
            gaps=(),
            events_carried=7,
            events_missing=(),
            kept_in=str(kept),
        )
        (kept / "report.json").write_bytes(msgspec.json.encode(report))
    (engine / "damaged-half").mkdir()
    (engine / "damaged-half" / "report.json").write_text("{")

    assert cli.main(["doctor", "--data-dir", str(tmp_path / "d")]) == 0

    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("log: ")]
    assert [line.split(",")[0] for line in printed] == [
        "log: 2026-01-01T00:00:00+00:00",
        "log: 2026-01-02T00:00:00+00:00",
    ]
    assert all("7 events were read behind it" in line for line in printed)
