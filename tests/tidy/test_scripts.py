"""Taste turned into tests: headers, code and outcomes of the scripts say the same, in both directions."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from cartstore.errors import ContractError
from cartstore.model import Partition
from cartstore.redis import scripts
from cartstore.redis.keys import Keys
from cartstore.redis.outcomes import CODES_TO_ERRORS, REFUSALS, RETRIED, SUCCESSES
from cartstore.redis.scripts import compose, script, script_names

FOLDER = files("cartstore_lua")
INCLUDES = sorted(entry.name for entry in FOLDER.joinpath("includes").iterdir())
FORBIDDEN = (
    "bit.",
    "math.random",
    "redis.pcall",
    "'KEYS'",
    "'SCAN'",
    "error(",
    "assert(",
)


def source_of(name: str) -> str:
    return FOLDER.joinpath(f"{name}.lua").read_text()


def carried_by(name: str) -> str | None:
    """The script of which this one runs several calls."""
    return next((other for other in script_names() if f"  Several  {name}\n" in source_of(other)), None)


def split(name: str) -> tuple[str, str]:
    """A script's header and its composed code without comments."""
    header = source_of(name).split("]]\n", 1)[0]
    code = "\n".join(line.split("--")[0] for line in compose(name).splitlines())
    return header, code


def tags_of(header: str) -> set[str]:
    returns = header.split("  Returns", 1)[1].split("  Faults", 1)[0].split("  Codes", 1)[0]
    return set(re.findall(r"\{'([A-Z_]+)'", returns))


def codes_of(header: str) -> set[str]:
    """Codes that stand inside an answer, as the problem of one entry or line."""
    _, mark, rest = header.partition("  Codes")
    return set(re.findall(r"[A-Z_]{2,}", rest.split("  Faults", 1)[0])) if mark else set()


@pytest.mark.parametrize("name", script_names())
def test_script_header_names_every_key_and_argument_when_the_code_uses_it(name: str) -> None:
    header, code = split(name)

    for kind, pattern in (("KEYS", r"KEYS\[(\d+)\]"), ("ARGV", r"(?:ARGV|args)\[(\d+)\]")):
        used = {int(number) for number in re.findall(pattern, code)}
        named = {int(number) for number in re.findall(rf"{kind}\[(\d+)", header)}
        if kind == "ARGV" and (carried := carried_by(name)):
            # What it unpacks are the arguments of the other one.
            named |= {int(number) for number in re.findall(r"ARGV\[(\d+)", source_of(carried))}
        assert used <= named, f"{name} uses {kind} {used - named} without naming them"
        assert named == set(range(1, len(named) + 1)), f"{name} leaves out a {kind} in its header"


@pytest.mark.parametrize("name", script_names())
def test_script_header_names_every_tag_when_the_code_returns_it(name: str) -> None:
    header, code = split(name)
    returned = set(
        re.findall(
            r"(?:return|remembered or|reply =|problems, 1,|reply, 1,|decoded, 1,) \{? ?'([A-Z_]{2,})'", code
        )
    )

    carried = carried_by(name)
    named = tags_of(split(carried)[0] if carried else header)

    assert returned <= named | codes_of(header), (
        f"{name} returns {returned - named}, which its header does not name"
    )
    assert named <= set(REFUSALS) | SUCCESSES | RETRIED, f"nobody reads {named - set(REFUSALS) - SUCCESSES}"


def test_outcomes_are_all_returned_when_all_headers_are_read() -> None:
    named = set().union(*(tags_of(split(name)[0]) for name in script_names()))

    assert set(REFUSALS) | SUCCESSES | RETRIED == named
    codes = set().union(*(codes_of(split(name)[0]) for name in script_names()))
    assert codes - {"OK"} == set(CODES_TO_ERRORS)


@pytest.mark.parametrize("name", script_names())
def test_script_takes_the_gate_and_the_identity_first_when_it_is_called(name: str) -> None:
    header, code = split(name)

    assert "KEYS[1]  gate hash" in header
    assert re.search(r"ARGV\[1\]\s+identity", header)
    beside_the_gate = (
        *("gate_open", "gate_rebuild", "gate_extend_windows"),
        *("gate_mark", "process_beat", "rights_check"),
        *("gate_take_over", "cart_dump_layout_4"),
    )
    assert name in beside_the_gate or "call_begin(" in code
    assert "  Cost     " in header


@pytest.mark.parametrize("name", script_names())
def test_script_uses_nothing_that_an_engine_lacks_when_it_is_composed(name: str) -> None:
    _, code = split(name)

    for word in FORBIDDEN:
        assert word not in re.sub(r"redis\.error_reply\(", "", code), f"{name} uses {word}"


@pytest.mark.parametrize("name", script_names())
def test_function_says_what_it_is_called_and_how_it_behaves_when_memory_is_full(name: str) -> None:
    header, _ = split(name)
    found = script(name)
    flags = re.findall(r"^  Function (.*)$", header, re.MULTILINE)

    assert flags in ([], ["no flags"], ["allow-oom"])
    assert bool(found.library) == bool(flags)
    if flags:
        verb, function = found.command
        assert verb == "FCALL"
        assert re.fullmatch(rf"{name}_[0-9a-f]{{16}}", function)
        assert found.library.startswith(f"#!lua name={function}\n")
        assert ("'allow-oom'" in found.library) == (flags == ["allow-oom"])


def test_script_that_runs_several_is_refused_when_one_of_them_would_be() -> None:
    carriers = [name for name in script_names() if carried_by(name)]

    assert carriers
    for name in carriers:
        carried = script(str(carried_by(name)))
        assert carried.several is script(name)
        flags = [
            re.findall(r"^  Function (.*)$", source_of(each), re.MULTILINE) for each in (name, carried.name)
        ]
        assert flags[0] == flags[1] != []


def test_nobody_changes_what_functions_keep_when_scripts_are_read() -> None:
    for name in script_names():
        assert not re.findall(r"\b(?:terms|fields)\.\w+ = ", compose(name)), name


@pytest.mark.parametrize("name", INCLUDES)
def test_include_is_one_function_of_its_own_name_when_it_is_read(name: str) -> None:
    text = FOLDER.joinpath("includes", name).read_text()

    assert re.findall(r"^local function (\w+)", text, re.MULTILINE) == [name.removesuffix(".lua")]
    assert re.search(r"^-- ", text, re.MULTILINE), "an include says what it is for"


@pytest.mark.parametrize("name", INCLUDES)
def test_include_is_used_when_it_is_shipped(name: str) -> None:
    wanted = f"--- @include {name.removesuffix('.lua')}\n"
    texts = [source_of(script) for script in script_names()]
    texts += [FOLDER.joinpath("includes", other).read_text() for other in INCLUDES if other != name]

    assert any(wanted in text for text in texts), f"nobody includes {name}"


def test_keys_are_spelled_as_the_one_speller_does_when_scripts_compute_them() -> None:
    prefix = Partition("ns").tag + ":"
    keys = Keys(Partition("ns"))
    known = {
        *(
            name.removeprefix(prefix).rstrip("x")
            for name in (keys.cart("x"), keys.sku("x"), keys.holds("x"), keys.payment("x"), keys.order("x"))
        ),
        keys.orders("x").removeprefix(prefix).rstrip("x"),
        keys.used(0).removeprefix(prefix).rstrip("0"),
        keys.bought("", "").removeprefix(prefix).rstrip(":") + ":",
        *(
            name.removeprefix(prefix)
            for name in (keys.gate, keys.outbox, keys.holding, keys.due, keys.activity, keys.unloaded)
        ),
    }
    spelled: set[str] = set()
    for name in script_names():
        spelled |= set(re.findall(r"prefix \.\. '([^']+)'", compose(name)))

    assert spelled <= known, f"scripts spell {spelled - known}, which keys.py does not"


def test_compose_names_the_chain_when_an_include_is_missing_or_includes_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = {
        ("a.lua",): "--[[\n]]\n--- @include x\nreturn 1\n",
        ("b.lua",): "--[[\n]]\n--- @include gone\nreturn 1\n",
        ("includes", "x.lua"): "--- @include y\nlocal function x() end\n",
        ("includes", "y.lua"): "--- @include x\nlocal function y() end\n",
    }

    def read(*path: str) -> str:
        try:
            return texts[path]
        except KeyError:
            raise FileNotFoundError from None

    monkeypatch.setattr(scripts, "_read", read)

    with pytest.raises(ContractError, match="a -> x -> y -> x"):
        compose("a")
    with pytest.raises(ContractError, match="'gone', wanted by b"):
        compose("b")
