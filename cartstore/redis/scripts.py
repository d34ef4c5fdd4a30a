"""Composes the Lua sources. Owns include resolution, and the names by which the engine knows a script.

Most are scripts: EVALSHA makes all their local functions anew in every call. Those of the hot path are
functions as well (a `Function` line in their header gives the flags): the engine keeps them as they are, with
what they have parsed before. Either form can be called; the text of both is the same. Where calls of one come
close together, another script carries several of them (a `Several` line names it).
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

from cartstore.errors import ContractError

_INCLUDE = re.compile(r"^--- @include (\w+)\n", re.MULTILINE)
_FUNCTION = re.compile(r"^  Function (.*)$", re.MULTILINE)
_SEVERAL = re.compile(r"^  Several  (\w+)$", re.MULTILINE)
_WRITE = re.compile(
    r"redis(?:\.|_)call\(\s*'(?:H(?:SET|SETNX|DEL|INCRBY)|P?EXPIRE|PERSIST|S(?:ADD|REM)|UNLINK|DEL|SET"
    r"|X(?:ADD|TRIM|DEL)|Z(?:ADD|REM))'"
)
_NO_FLAGS = "no flags"


class Script:
    """One composed transition: its name, text and SHA-1, and how it is called.

    command: the words of a call before the number of its keys.
    library: what FUNCTION LOAD is to be given before such a call; empty for a script, whose text EVAL brings.
    text: what EVAL is given; of a function, with what the engine has to let pass of it.
    plain: the same as a script, if it is a function.
    several: what runs several calls of this one, if anything does. Its keys are the first of theirs, which
        they share, and the others of each; its arguments after the identity are what comes after it in
        each, as MessagePack values one after the other; its reply is an array of theirs.
    writes: whether it changes anything but the gate's state, which is its only change then.
    """

    __slots__ = ("command", "library", "name", "plain", "several", "sha", "source", "text", "writes")

    def __init__(
        self,
        name: str,
        source: str,
        *,
        library: str = "",
        function: str = "",
        flags: tuple[str, ...] = (),
        several: Script | None = None,
        writes: bool = True,
    ) -> None:
        self.name = name
        self.source = source
        self.text = f"#!lua flags={','.join(flags)}\n{source}" if flags else source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self.library = library
        self.command = ("FCALL", function) if function else ("EVALSHA", self.sha)
        self.plain: Script = Script(name, source, writes=writes) if function else self
        self.several = several
        self.writes = writes

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
    return _joined(_parts(name))


def _joined(parts: list[str]) -> str:
    return "\n\n".join(parts) + "\n"


def _parts(name: str) -> list[str]:
    """The includes that a script needs, in order, and then its own code."""
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

    _, code = _split(name)
    for needed in _INCLUDE.findall(code):
        include(needed, (name,))
    return [*parts, _INCLUDE.sub("", code).strip("\n")]


def _split(name: str) -> tuple[str, str]:
    source = _read(f"{name}.lua")
    header_end = source.index("]]\n") + len("]]\n")
    return source[:header_end], source[header_end:]


def load_scripts() -> None:
    """Read and compose all scripts. A process that does so at its start needs no file for one later, when it
    may have no descriptor left to open one with."""
    for name in script_names():
        script(name)


@cache
def script(name: str) -> Script:
    """The composed script of this name; composed once per process."""
    parts = _parts(name)
    source = _joined(parts)
    header, _ = _split(name)
    flags, named = _FUNCTION.search(header), _SEVERAL.search(header)
    several = script(named[1]) if named else None
    # call_begin fences the gate, and then nothing else is called.
    writes = any(_WRITE.search(part) for part in parts if "function call_begin(" not in part)
    if flags is None:
        return Script(name, source, several=several, writes=writes)
    *includes, code = parts
    words = () if flags[1] == _NO_FLAGS else tuple(flags[1].split())
    listed = ", ".join(f"'{word}'" for word in words)
    text = "\n\n".join([*includes, f"local function {name}(KEYS, ARGV)\n{code}\nend"])
    # Named by what it is: processes of two versions call one engine while one replaces the other.
    digest = hashlib.sha1(f"{text}{listed}".encode(), usedforsecurity=False).hexdigest()[:16]
    function = f"{name}_{digest}"
    registered = f"{{ function_name = '{function}', callback = {name}, flags = {{ {listed} }} }}"
    library = f"#!lua name={function}\n{text}\n\nredis.register_function{registered}\n"
    return Script(
        name, source, library=library, function=function, flags=words, several=several, writes=writes
    )
