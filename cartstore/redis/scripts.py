"""Composes the Lua sources. Owns include resolution and the digests by which the engine knows a script."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

from cartstore.errors import ContractError

_INCLUDE = re.compile(r"^--- @include (\w+)\n", re.MULTILINE)


class Script:
    """One composed transition: its name, text and SHA-1."""

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"Script({self.name})"


def script_names() -> list[str]:
    """All transitions, by file name, sorted."""
    folder = files("cartstore_lua")
    return sorted(
        entry.name.removesuffix(".lua") for entry in folder.iterdir() if entry.name.endswith(".lua")
    )


def _read(*path: str) -> str:
    return files("cartstore_lua").joinpath(*path).read_text(encoding="utf-8")


def compose(name: str) -> str:
    """The text of a script with every include put in once, each before what needs it.

    Raises ContractError for an include that does not exist or that includes itself, naming the chain.
    """
    parts: list[str] = []
    done: set[str] = set()

    def include(part: str, chain: tuple[str, ...]) -> None:
        if part in chain:
            raise ContractError(f"Include cycle: {' -> '.join((*chain, part))}")
        if part in done:
            return
        try:
            source = _read("includes", f"{part}.lua")
        except FileNotFoundError as error:
            raise ContractError(f"No include {part!r}, wanted by {' -> '.join(chain)}") from error
        for needed in _INCLUDE.findall(source):
            include(needed, (*chain, part))
        done.add(part)
        parts.append(_INCLUDE.sub("", source).strip("\n"))

    source = _read(f"{name}.lua")
    header_end = source.index("]]\n") + len("]]\n")
    for needed in _INCLUDE.findall(source):
        include(needed, (name,))
    body = _INCLUDE.sub("", source[header_end:]).strip("\n")
    return "\n\n".join([*parts, body]) + "\n"


@cache
def script(name: str) -> Script:
    """The composed script of this name; composed once per process."""
    return Script(name, compose(name))
