"""Every wrong field of a body at once. Owns the second look at a body that is refused, and the checks that a
body of the right shape still has to pass.

The decoder stops at the first field that is wrong, which is all that a body in order costs. One that is
refused is decoded once more without a type, and each of its members is looked at by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec

from cartstore.texts import has_control
from cartstore_api.field_checks import Check, check_in, schema_in
from cartstore_api.schemas import FieldError

ERRORS_MAX: Final = 100
"""Wrong fields that are named; whoever has more has made the same mistake again and again."""

MULTILINE: Final = frozenset({"description"})
"""Members whose text may have line breaks and tabs."""

_UNNAMED: Final = "[...]"

BODY: Final = "body"
"""What the body itself is called where a field is named."""

_REASON = re.compile(r"(?P<reason>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?\Z", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING_FIELD = re.compile(r"missing required field `(?P<name>.*)`", re.DOTALL)

Checker = Callable[[Any, str], Iterator[FieldError]]
"""(value, where it is) -> what is wrong."""


def error_of(error: msgspec.ValidationError, at: str = "") -> FieldError:
    """What the decoder says is wrong, of a value that is at `at`."""
    match = _REASON.match(str(error))
    reason, path = (match["reason"], match["path"] or "") if match else (str(error), "")
    for pattern, said in ((_UNKNOWN_FIELD, "unknown field"), (_MISSING_FIELD, "is required")):
        if named := pattern.search(reason):
            path, reason = f"{path}.{named['name']}", said
    field = f"{at}{path}".removeprefix(".") or BODY
    separator = " " if reason.startswith("is ") else ": "
    return FieldError(field=field, detail=f"{field}{separator}{reason.replace('`', '')}.")


def errors_in(body: bytes, annotation: Any, first: FieldError) -> list[FieldError]:
    """What is wrong with a body that was refused for `first`: that, and every other field that is wrong."""
    # The decoder does not say which member of a free-form object it means; the second look does.
    found = {} if _UNNAMED in first.field else {first.field: first}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError):
        return [first]
    for error in islice(_look(value, annotation, ""), ERRORS_MAX):
        found.setdefault(error.field, error)
    return list(found.values()) or [first]


def described(shape: type[msgspec.Struct]) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """(field, whether its entries are meant, what the OpenAPI document says beyond its bounds) of a shape."""
    for name, annotation in _annotations(shape).items():
        base, metas = _parts(annotation)
        is_list = get_origin(base) is list
        if is_list:
            _, metas = _parts(get_args(base)[0])
        for found in metas:
            if said := schema_in(found):
                yield name, is_list, said


def control_error(path: str, name: str, text: str) -> FieldError | None:
    """The text's error when it has a control character that a member of this name may not have."""
    if not has_control(text, is_multiline=name in MULTILINE):
        return None
    path = path or BODY
    return FieldError(field=path, detail=f"{path} contains a control character.")


@lru_cache(256)
def checker_of(annotation: Any) -> Checker | None:
    """What makes the checks of a type's fields on a decoded value; None when it has none."""
    base, metas = _parts(annotation)
    if isinstance(base, type) and issubclass(base, msgspec.Struct):
        return _struct_checker(base)
    if get_origin(base) is list:
        return _list_checker(*get_args(base))
    checks = [check for meta in metas if (check := check_in(meta, with_late=False)) is not None]
    return (lambda value, at: _checked(checks, value, at)) if checks else None


def _struct_checker(shape: type[msgspec.Struct]) -> Checker | None:
    members = {
        name: checker
        for name, annotation in _annotations(shape).items()
        if (checker := checker_of(annotation)) is not None
    }
    if not members:
        return None

    def check(value: Any, at: str) -> Iterator[FieldError]:
        for name, checker in members.items():
            member = getattr(value, name)
            if member is not None:
                yield from checker(member, _joined(at, name))

    return check


def _list_checker(annotation: Any) -> Checker | None:
    checker = checker_of(annotation)
    if checker is None:
        return None

    def check(value: Any, at: str) -> Iterator[FieldError]:
        for number, member in enumerate(value):
            yield from checker(member, f"{at}[{number}]")

    return check


def _checked(checks: list[Check], value: Any, at: str) -> Iterator[FieldError]:
    for check in checks:
        problem = check(value)
        if problem is not None:
            yield FieldError(field=at or BODY, detail=f"{at or BODY} {problem}.")


def _look(value: Any, annotation: Any, at: str, name: str = "") -> Iterator[FieldError]:
    """What is wrong with an undecoded value, by the annotation of its place."""
    if value is None and _takes_none(annotation):
        return
    base, metas = _parts(annotation)
    if base is msgspec.Raw:
        return
    if isinstance(base, type) and issubclass(base, msgspec.Struct) and isinstance(value, dict):
        yield from _look_at_members(value, base, at)
        return
    origin = get_origin(base)
    is_container = origin in (list, dict) and isinstance(value, origin)
    # Of a container only its own bounds, here: its members follow one by one.
    bare: Any = (list[Any] if origin is list else dict[str, Any]) if is_container else base
    try:
        msgspec.convert(value, Annotated[(bare, *metas)] if metas else bare)
    except msgspec.ValidationError as error:
        yield error_of(error, at)
        return
    if is_container and origin is list:
        for number, member in enumerate(value):
            yield from _look(member, get_args(base)[0], f"{at}[{number}]", name)
    elif is_container and get_args(base)[1] is not Any:
        for key, member in value.items():
            if (problem := control_error(at, "", key)) is not None:
                yield problem
            yield from _look(member, get_args(base)[1], _joined(at, key))
    else:
        found = [
            problem
            for path, its_name, text in texts_in(value, at, name)
            if (problem := control_error(path, its_name, text)) is not None
        ]
        if found:
            yield from found
            return
    checks = [check for meta in metas if (check := check_in(meta, with_late=True)) is not None]
    yield from _checked(checks, value, at)


def _look_at_members(value: dict[str, Any], shape: type[msgspec.Struct], at: str) -> Iterator[FieldError]:
    annotations = _annotations(shape)
    for field in msgspec.structs.fields(shape):
        path = _joined(at, field.name)
        if field.name in value:
            yield from _look(value[field.name], annotations[field.name], path, field.name)
        elif field.required:
            yield FieldError(field=path, detail=f"{path} is required.")
    if shape.__struct_config__.forbid_unknown_fields:
        for name in value:
            if name not in annotations:
                path = _joined(at, name)
                yield FieldError(field=path, detail=f"{path}: unknown field.")


def texts_in(value: Any, path: str = "", name: str = "") -> Iterator[tuple[str, str, str]]:
    """(path, name of the member, text) of every text in a decoded body, keys included."""
    if isinstance(value, str):
        yield path, name, value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from texts_in(getattr(value, field), _joined(path, field), field)
    elif isinstance(value, dict):
        for key, member in value.items():
            yield path, "", str(key)
            yield from texts_in(member, _joined(path, str(key)), "")
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from texts_in(member, f"{path}[{number}]", name)


def _joined(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


@lru_cache(256)
def _annotations(shape: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(shape, include_extras=True)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _takes_none(annotation: Any) -> bool:
    base, _ = _parts(annotation)
    return base in (Any, NoneType) or (_is_union(annotation) and NoneType in get_args(annotation))


def _parts(annotation: Any) -> tuple[Any, tuple[msgspec.Meta, ...]]:
    """The type that a value has which is not null, and its metadata."""
    if _is_union(annotation):
        members = [member for member in get_args(annotation) if member is not NoneType]
        if len(members) > 1:
            return annotation, ()
        (annotation,) = members
    if get_origin(annotation) is Annotated:
        base, *metas = get_args(annotation)
        inner, others = _parts(base)
        return inner, (*others, *(found for found in metas if isinstance(found, msgspec.Meta)))
    return annotation, ()
