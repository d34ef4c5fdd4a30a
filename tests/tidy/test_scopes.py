"""The command line issues tokens with exactly the scopes that the API asks for."""

from __future__ import annotations

import re
from pathlib import Path

import cartstore_api

from cartstore.cli import SCOPES


def test_scopes_of_the_command_line_are_those_of_the_api() -> None:
    code = "".join(file.read_text() for file in Path(cartstore_api.__file__).parent.rglob("*.py"))

    asked = set(re.findall(r"\"([a-z]+:(?:read|write))\"", code))

    assert asked | {"admin"} == set(SCOPES)
