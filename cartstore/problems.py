"""Owns how wrong settings are found and told: all of them at once, each by the name of its variable, with
what it takes and, for a name that is none, with the one that was probably meant.

Knows no setting. A value is shown only where it cannot be a secret.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import inspect

from cartstore.errors import ConfigurationError

ENVIRONMENT_PREFIX: Final = "CARTSTORE_"

_SHOWN_MAX: Final = 40


class Problem(NamedTuple):
    """One thing that is wrong with settings."""

    text: str
    """A sentence that names the variable."""
    fields: tuple[str, ...] = ()
    """The settings that it follows from. One that is wrong by itself already has a problem of its own, and
    what would follow from the default in its place is not told."""


class SettingsRefused(ConfigurationError):
    """The settings are refused. Sets `problems`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        texts = [problem.text for problem in problems]
        if len(texts) > 1:
            texts = [f"{len(texts)} problems with the settings:", *(f"- {text}" for text in texts)]
        super().__init__("\n".join(texts))


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return ENVIRONMENT_PREFIX + name.upper()


def unknown_variable(variable: str, names: Iterable[str]) -> Problem:
    """A variable with our prefix that is no setting; `names` are the settings that there are."""
    known = [variable_of(name) for name in names]
    near = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0.75)
    # A name that lacks its unit is further away than a typo: CARTSTORE_HOLD_TTL for ..._GUEST_SECONDS.
    near = near or [name for name in known if name.startswith(f"{variable.upper()}_")][:1]
    hint = f" Did you mean {near[0]}?" if near else ""
    return Problem(f"{variable} is not a setting of cartstore.{hint}")


def wrong_values(
    values: Mapping[str, Any], types: Mapping[str, Any], *, from_text: bool
) -> tuple[dict[str, Any], list[Problem]]:
    """Convert each value to the type of its field: those that could be, and a problem for each other one.

    `from_text`: numbers may be given as text, as the environment has them.
    """
    converted: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in values.items():
        try:
            converted[name] = msgspec.convert(value, types[name], strict=not from_text)
        except msgspec.ValidationError as error:
            problems.append(_wrong_value(name, value, types[name], str(error)))
    return converted, problems


def types_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The declared type of each field, with its bounds."""
    return typing.get_type_hints(struct, include_extras=True)


def _wrong_value(name: str, value: Any, declared: Any, reason: str) -> Problem:
    takes = _takes(inspect.type_info(declared))
    if takes is None:
        # Nothing is known of such a type but what the conversion says, which quotes no text.
        return Problem(f"{variable_of(name)}: {reason}.", (name,))
    shown = repr(value)
    if len(shown) > _SHOWN_MAX:
        shown = f"{shown[:_SHOWN_MAX]}..."
    return Problem(f"{variable_of(name)} is {shown}; it takes {takes}.", (name,))


def _takes(kind: inspect.Type) -> str | None:
    """What a field takes, in words; None for a type without bounds, whose value may be a secret."""
    if isinstance(kind, inspect.Metadata):
        described = (kind.extra_json_schema or {}).get("description")
        return described if described is not None else _takes(kind.type)
    if isinstance(kind, inspect.LiteralType):
        *others, last = [str(value) or "nothing" for value in kind.values]
        return f"{', '.join(others)} or {last}" if others else f"only {last}"
    if isinstance(kind, inspect.IntType) and kind.ge is not None and kind.le is not None:
        return f"a whole number from {kind.ge} to {kind.le}"
    if isinstance(kind, inspect.FloatType) and kind.ge is not None and kind.le is not None:
        return f"a number from {kind.ge} to {kind.le}"
    return None
