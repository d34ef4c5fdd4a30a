"""What operators are told of parts that are away or wrong: by `doctor`, at start, and by an import."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from cartstore import open_store
from cartstore.cli import EXIT_FAILED, _examine, _import_files
from cartstore.doctor import Finding, examine
from cartstore.embedded import Engine
from cartstore.errors import StoreUnavailable
from cartstore.redis.heart import Heart
from cartstore.settings import Settings
from cartstore.supervisor import check_engine

AWAY_DATABASE = "postgresql://u:p4ss@127.0.0.1:1/shop"
AWAY_ENGINE = "redis://:p4ss@127.0.0.1:1/0"

HEADER = (
    "Handle,Title,Vendor,Published,Option1 Name,Option1 Value,Variant SKU,Variant Inventory Qty,"
    "Variant Inventory Policy,Variant Price\n"
)
TEA = "tea,Tea,Hut,true,Title,Default Title,TEA-1,3,deny,4.50\n"
POT = "pot,Pot,Hut,true,Title,Default Title,POT-1,3,deny,cheap\n"


async def test_doctor_says_that_all_is_well_and_the_mode(
    redis_url: str, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(redis_url=redis_url, database_url=database_url)
    worker = Heart(settings, "worker")
    await worker.beat({})

    status = await _examine(tmp_path / "d", settings)
    await worker.close()
    without = await examine(settings, tmp_path / "d")

    assert [name for name, finding in without.items() if not finding.is_ok] == ["worker"]
    lines = capsys.readouterr().out.splitlines()
    assert status == 0, lines
    assert all(": ok, " in line for line in lines)
    assert "checkouts: ok, acknowledged in mode engine: as durable as the engine's own persistence" in lines
    assert {line.partition(":")[0] for line in lines} >= {"engine", "queue", "database", "gate", "drain"}
    assert not (tmp_path / "d").exists()


async def test_doctor_names_every_part_when_one_is_away(redis_url: str, tmp_path: Path) -> None:
    found = await examine(Settings(redis_url=redis_url, database_url=AWAY_DATABASE), tmp_path)

    assert (found["engine"].is_ok, found["queue"].is_ok) == (True, True)
    assert not found["database"].is_ok
    assert "127.0.0.1 port 1 cannot be reached: connection refused" in found["database"].detail
    assert not found["store"].is_ok


async def test_doctor_says_nothing_of_a_change_when_the_engine_is_away(
    database_url: str, tmp_path: Path
) -> None:
    found = await examine(Settings(redis_url=AWAY_ENGINE, database_url=database_url), tmp_path)

    assert "not applied" not in str(found)


async def test_opening_a_store_tells_operators_why_the_engine_cannot_be_reached(
    own: Engine, database_url: str
) -> None:
    wrong = own.url().replace("password=own", "password=0wn")
    told = []
    for url in (AWAY_ENGINE, wrong):
        with pytest.raises(StoreUnavailable) as refused:
            async with open_store(Settings(redis_url=url, database_url=database_url)):
                pass
        told.append(refused.value.for_operators)
        assert "127.0.0.1" not in refused.value.message

    assert told[0].startswith("The engine at redis://127.0.0.1:1/0 cannot be reached: connection refused")
    assert "refuses the user and password of the URL" in told[1]


async def test_doctor_goes_on_when_all_parts_are_away(tmp_path: Path) -> None:
    found = await examine(Settings(redis_url=AWAY_ENGINE, database_url=AWAY_DATABASE), tmp_path)

    assert {name: finding.is_ok for name, finding in found.items()} == {
        "engine": False,
        "queue": False,
        "database": False,
        "store": False,
    }
    assert found["engine"].detail.startswith(
        "The engine at redis://127.0.0.1:1/0 cannot be reached: connection"
    )
    assert found["queue"].detail.startswith("The queue's Redis at redis://127.0.0.1:1/1 cannot be reached")
    assert "p4ss" not in str(found)


async def test_doctor_asks_the_other_server_when_one_of_the_data_dir_does_not_start(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise StoreUnavailable("The database was not ready within 60 s.")

    monkeypatch.setattr("cartstore.embedded.parts.Database.prepare", fail)

    found = await examine(Settings(), server_folder / "doctor")

    assert {name: finding.is_ok for name, finding in found.items()} == {
        "engine": True,
        "queue": True,
        "database": False,
        "store": False,
    }
    assert found["database"].detail == "The database was not ready within 60 s."


async def test_doctor_names_a_wrong_password_and_a_number_that_the_engine_lacks(
    own: Engine, tmp_path: Path
) -> None:
    wrong = Settings(redis_url=own.url().replace("password=own", "password=0wn"), database_url=AWAY_DATABASE)
    number = Settings(redis_url=own.url(99), queue_url=own.url(2), database_url=AWAY_DATABASE)

    refused, absent = [(await examine(settings, tmp_path))["engine"] for settings in (wrong, number)]

    assert "refuses the user and password of the URL" in refused.detail
    assert "0wn" not in refused.detail
    assert "has no database 99: name another number at the end of CARTSTORE_REDIS_URL" in absent.detail


async def test_doctor_names_the_setting_of_a_number_that_no_engine_has(own: Engine, tmp_path: Path) -> None:
    """With a database of the data dir's: what watches its disk comes to the engine first."""
    settings = Settings(redis_url=own.tcp_url(99), queue_url=own.tcp_url(98))

    found = await examine(settings, tmp_path / "d")

    assert (
        "has no database 99: name another number at the end of CARTSTORE_REDIS_URL" in found["store"].detail
    )
    assert (
        "has no database 98: name another number at the end of CARTSTORE_QUEUE_URL" in found["queue"].detail
    )
    assert found["database"] == Finding(True, "answers")
    assert "refused a script" not in str(found)


async def test_replica_is_told_by_name(
    own: Engine, admin: Any, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    admin.replicaof("127.0.0.1", 1)
    settings = Settings(redis_url=own.url(), database_url=database_url)

    with pytest.raises(StoreUnavailable, match=r"is a replica of 127.0.0.1 port 1"):
        await asyncio.to_thread(check_engine, own.url())
    found = await examine(settings, tmp_path)

    assert not found["engine"].is_ok
    assert "name the primary in CARTSTORE_REDIS_URL" in found["engine"].detail
    assert "is a replica of 127.0.0.1 port 1" in caplog.text


@pytest.mark.parametrize(
    ("persistence", "says"),
    [
        ({"appendfsync": "everysec"}, "appendfsync is everysec"),
        ({"appendonly": "no"}, "it has no append-only file"),
        ({}, None),
    ],
)
async def test_mode_engine_warns_when_the_engine_s_machine_may_lose_what_was_acknowledged(
    own: Engine,
    admin: Any,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    persistence: dict[str, str],
    says: str | None,
) -> None:
    for name, value in persistence.items():
        admin.config_set(name, value)
    settings = Settings(redis_url=own.url(), database_url=database_url, checkout_ack="engine")

    with caplog.at_level(logging.WARNING):
        async with open_store(settings):
            pass

    warnings = [text for text in caplog.messages if "CARTSTORE_CHECKOUT_ACK is engine" in text]
    assert len(warnings) == (says is not None)
    assert says is None or says in warnings[0]


@pytest.mark.parametrize(("rows", "status"), [(TEA, 0), (TEA + POT, EXIT_FAILED)])
async def test_import_fails_when_it_left_rows_out(
    redis_url: str, database_url: str, tmp_path: Path, rows: str, status: int
) -> None:
    file = tmp_path / "catalog.csv"
    file.write_text(HEADER + rows)
    settings = Settings(redis_url=redis_url, database_url=database_url)

    assert await _import_files([file], {}, tmp_path, settings) == status
