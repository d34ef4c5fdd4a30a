"""What generators of Node.js make of the OpenAPI document. Collected where `make setup` installed them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from conftest import NODE_TOOLS
from documented import openapi_document

GENERATORS = Path(__file__).parents[1] / "generators"
QUIET = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "openapi.json").write_bytes(msgspec.json.encode(openapi_document()))
    return tmp_path


def _run(tool: str, *arguments: str, folder: Path) -> None:
    command = [str(NODE_TOOLS / ".bin" / tool), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **QUIET})
    assert done.returncode == 0, done.stdout + done.stderr


def test_document_passes_redocly_lint(folder: Path) -> None:
    _run("redocly", "lint", "openapi.json", "--config", str(GENERATORS / "redocly.yaml"), folder=folder)


def test_typescript_types_compile_with_what_a_client_does(folder: Path) -> None:
    shutil.copy(GENERATORS / "usage.ts", folder)

    _run("openapi-typescript", "openapi.json", "--output", "openapi.d.ts", folder=folder)

    options = ("--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--lib", "es2022")
    _run("tsc", *options, "usage.ts", folder=folder)
