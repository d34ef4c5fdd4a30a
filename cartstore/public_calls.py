"""What a public method of the store does before anything else: it proves that it is called where the store
belongs, and refuses arguments of a wrong type by their name.

What a method takes is read off its annotations. `checked_calls` wraps every public coroutine method of a
class; the few that answer every request look at their arguments themselves, and come here only to say what is
wrong.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import (
    Any,
    Final,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from cartstore.affinity import Affinity
from cartstore.errors import InvalidField

_TEXT_LENGTH_MAX: Final = 40
"""Of a wrong value that a message repeats."""

_UNIONS: Final = (Union, types.UnionType)
_TEXTS: Final = (str, bytes, bytearray)
_ARRAYS: Final = (list, tuple, Sequence, Iterable)

_Class = TypeVar("_Class", bound="type[Any]")


class _Belongs(Protocol):
    _affinity: Affinity


def checked_calls(*, hot: Collection[str]) -> Callable[[_Class], _Class]:
    """A class whose public coroutine methods check place and arguments first; `hot` ones do it themselves."""

    def decorate(kind: _Class) -> _Class:
        for name, member in list(vars(kind).items()):
            if inspect.iscoroutinefunction(member) and not name.startswith("_") and name not in hot:
                setattr(kind, name, _checked(member))
        return kind

    return decorate


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: _Belongs, *arguments: Any, **named: Any) -> Any:
        self._affinity.check()
        check_types(method, *arguments, **named)
        return await method(self, *arguments, **named)

    return call


def check_types(method: Callable[..., Any], *arguments: object, **named: object) -> None:
    """Raise InvalidField for the first argument of a wrong type. Whether all are there, and none too many, is
    for the call itself to say."""
    positional, wanted = _taken(method)
    for name, value in (*zip(positional, arguments, strict=False), *named.items()):
        wrong = _find_wrong(name, value, wanted[name]) if name in wanted else None
        if wrong is not None:
            raise InvalidField(
                f"{wrong.name} must be {_told(wrong.wanted)}, not {_said(wrong)}.", field=wrong.name
            )


@functools.cache
def _taken(method: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    """The names of positional parameters without `self`, and what each parameter takes."""
    hints = get_type_hints(method)
    parameters = list(inspect.signature(method).parameters.values())[1:]
    positional = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
    return positional, {one.name: hints[one.name] for one in parameters}


@functools.cache
def _fields_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(kind)


class _Wrong(NamedTuple):
    name: str
    value: object
    wanted: Any


def _find_wrong(name: str, value: object, wanted: Any) -> _Wrong | None:
    """The first part of a value that is not what an annotation says. What says nothing that we can look at
    takes everything."""
    if wanted is Any:
        return None
    origin, options = get_origin(wanted), get_args(wanted)
    if origin in _UNIONS:
        found = [_find_wrong(name, value, option) for option in options]
        if None in found:
            return None
        # A member that is wrong tells more than that the whole is.
        inner = (wrong for wrong in found if wrong is not None and wrong.name != name)
        return next(inner, _Wrong(name, value, wanted))
    kind = origin or wanted
    if kind is Literal:
        is_right = isinstance(value, str) and value in options
    elif kind is Callable:
        is_right = callable(value)
    elif kind in _ARRAYS:
        # A text is a sequence of texts, and never meant so.
        is_right = isinstance(value, Sequence if kind in (list, tuple) else kind) and not isinstance(
            value, _TEXTS
        )
    elif kind is dict:
        is_right = isinstance(value, Mapping)
    elif kind is int:
        is_right = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(kind, type):
        is_right = isinstance(value, kind)
    else:
        return None
    if not is_right:
        return _Wrong(name, value, wanted)
    members = (_find_wrong(f"{name}{at}", member, of) for at, member, of in _members(value, kind, options))
    return next(filter(None, members), None)


def _members(value: Any, kind: Any, options: tuple[Any, ...]) -> Iterable[tuple[str, object, Any]]:
    """What can be looked at in a value: where it is, what it is, and what it has to be."""
    if isinstance(value, msgspec.Struct):
        for field, of in _fields_of(type(value)).items():
            yield f".{field}", getattr(value, field), of
    elif isinstance(value, Mapping) and options:
        for key, member in value.items():
            yield ".(name)", key, options[0]
            yield f".{key}", member, options[1]
    elif isinstance(value, Collection) and kind in _ARRAYS and options:
        for number, member in enumerate(value):
            yield f"[{number}]", member, options[0]


def _told(wanted: Any) -> str:
    origin, options = get_origin(wanted), get_args(wanted)
    if origin in _UNIONS:
        return " or ".join(_told(option) for option in options)
    if wanted is type(None):
        return "None"
    kind = origin or wanted
    if kind is Literal:
        return f"one of {', '.join(map(repr, options))}"
    if kind is Callable:
        return "a function"
    name = {dict: "mapping", tuple: "sequence", list: "sequence"}.get(kind, kind.__name__)
    name = name.lower() if kind in (Mapping, Sequence, Iterable) else name
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _said(wrong: _Wrong) -> str:
    if wrong.value is None:
        return "None"
    if isinstance(wrong.value, str) and "Literal" in str(wrong.wanted):
        return repr(wrong.value[:_TEXT_LENGTH_MAX])
    name = type(wrong.value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
