"""Every wrong field of a body at once. Owns the second look at a body that is refused, and the checks that a
body of the right shape still has to pass.

The decoder stops at the first field that is wrong, which is all that a body in order costs. One that is
refused is decoded once more without a type, and each of its members is looked at by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec

from cartstore.texts import has_control
from cartstore_api.field_checks import Bounds, Check, any_check_in, check_in
from cartstore_api.schemas import FieldError

ERRORS_MAX: Final = 100
"""Wrong fields that are named; whoever has more has made the same mistake again and again."""

LOOKED_MAX: Final = 1_000
"""Members of one list or object that the second look goes through; bounds what a refusal costs."""

MULTILINE: Final = frozenset({"description"})
"""Members whose text may have line breaks and tabs."""

_UNNAMED: Final = "[...]"

BODY: Final = "body"
"""What the body itself is called where a field is named."""

_REASON = re.compile(r"(?P<reason>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?\Z", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING_FIELD = re.compile(r"missing required field `(?P<name>.*)`", re.DOTALL)

Converter = Callable[[Any, str], Iterator[FieldError]]
"""(value, where it is) -> what is wrong with it as one of its type."""

Checker = Callable[[Any, str, str], Iterator[FieldError]]
"""(value, where it is, name of the member) -> what is wrong with it."""


def error_of(error: msgspec.ValidationError, at: str = "", within: str = "") -> FieldError:
    """What the decoder says is wrong, of a value that is at `at`, and that it found at `within`."""
    match = _REASON.match(str(error))
    reason, path = (match["reason"], match["path"] or "") if match else (str(error), "")
    path = path.removeprefix(within)
    for pattern, said in ((_UNKNOWN_FIELD, "unknown field"), (_MISSING_FIELD, "is required")):
        if named := pattern.search(reason):
            path, reason = f"{path}.{named['name']}", said
    field = f"{at}{path}".removeprefix(".") or BODY
    separator = " " if reason.startswith("is ") else ": "
    return FieldError(field=field, detail=f"{field}{separator}{reason.replace('`', '')}.")


def errors_in(body: bytes, annotation: Any, first: FieldError, bounds: Bounds) -> list[FieldError]:
    """What is wrong with a body that was refused for `first`: that, and every other field that is wrong, each
    with its limit, the shop's own included."""
    # The decoder does not say which member of a free-form object it means; the second look does.
    found = {} if _UNNAMED in first.field else {first.field: first}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError):
        return [first]
    for error in islice(_look_of(annotation, bounds)(value, "", ""), ERRORS_MAX):
        found.setdefault(error.field, error)
    return list(found.values()) or [first]


def control_error(path: str, name: str, text: str) -> FieldError | None:
    """The text's error when it has a control character that a member of this name may not have."""
    if not has_control(text, is_multiline=name in MULTILINE):
        return None
    path = path or BODY
    return FieldError(field=path, detail=f"{path} contains a control character.")


@lru_cache(256)
def checker_of(annotation: Any) -> Converter | None:
    """What makes the checks of a type's fields on a decoded value; None when it has none."""
    base, metas = _parts(annotation)
    if isinstance(base, type) and issubclass(base, msgspec.Struct):
        return _struct_checker(base)
    if get_origin(base) is list:
        return _list_checker(*get_args(base))
    checks = [check for meta in metas if (check := check_in(meta)) is not None]
    return (lambda value, at: _checked(checks, value, at)) if checks else None


def _struct_checker(shape: type[msgspec.Struct]) -> Converter | None:
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


def _list_checker(annotation: Any) -> Converter | None:
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


@lru_cache(256)
def _look_of(annotation: Any, bounds: Bounds) -> Checker:
    """What looks at an undecoded value by the annotation of its place, null included. Made once: to make
    sense of an annotation takes much longer than to look at a value."""
    base, metas = _parts(annotation)
    if base is msgspec.Raw:
        return _nothing
    origin = get_origin(base)
    if isinstance(base, type) and issubclass(base, msgspec.Struct):
        look = _look_of_struct(base, bounds)
    elif origin is list:
        look = _look_of_list(
            get_args(base)[0], _converter(_bare(list[Any], metas)), _checks_of(metas, bounds), bounds
        )
    elif origin is dict and get_args(base)[1] is not Any:
        look = _look_of_dict(get_args(base)[1], _converter(_bare(dict[str, Any], metas)), bounds)
    else:
        checks = _checks_of(metas, bounds)
        look = _look_of_value(_converter(annotation), checks)
    if not _takes_none(annotation):
        return look
    return lambda value, at, name: iter(()) if value is None else look(value, at, name)


def _checks_of(metas: Iterable[msgspec.Meta], bounds: Bounds) -> list[Check]:
    return [check for found in metas if (check := any_check_in(found, bounds)) is not None]


def _bare(container: Any, metas: tuple[msgspec.Meta, ...]) -> Any:
    """A container of anything within the bounds of one: its members are looked at one by one."""
    return Annotated[(container, *metas)] if metas else container


def _nothing(value: Any, at: str, name: str) -> Iterator[FieldError]:
    yield from ()


def _look_of_struct(shape: type[msgspec.Struct], bounds: Bounds) -> Checker:
    fields = [
        (field.name, field.required, _look_of(_annotations(shape)[field.name], bounds))
        for field in msgspec.structs.fields(shape)
    ]
    names = frozenset(name for name, _, _ in fields)
    refuses_others = shape.__struct_config__.forbid_unknown_fields
    convert = _converter(shape)

    def look(value: Any, at: str, name: str) -> Iterator[FieldError]:
        if not isinstance(value, dict):
            yield from convert(value, at)
            return
        for member, is_required, look_at in fields:
            if member in value:
                yield from look_at(value[member], _joined(at, member), member)
            elif is_required:
                path = _joined(at, member)
                yield FieldError(field=path, detail=f"{path} is required.")
        if refuses_others and not value.keys() <= names:
            for member in value:
                if member not in names:
                    path = _joined(at, member)
                    yield FieldError(field=path, detail=f"{path}: unknown field.")

    return look


def _look_of_list(annotation: Any, convert: Converter, checks: list[Check], bounds: Bounds) -> Checker:
    look_at = _look_of(annotation, bounds)

    def look(value: Any, at: str, name: str) -> Iterator[FieldError]:
        wrong = list(convert(value, at))
        yield from wrong
        if not wrong:
            yield from _checked(checks, value, at)
            for number, member in enumerate(value[:LOOKED_MAX]):
                yield from look_at(member, f"{at}[{number}]", name)

    return look


def _look_of_dict(annotation: Any, convert: Converter, bounds: Bounds) -> Checker:
    look_at = _look_of(annotation, bounds)

    def look(value: Any, at: str, name: str) -> Iterator[FieldError]:
        wrong = list(convert(value, at))
        yield from wrong
        if not wrong:
            for key, member in islice(value.items(), LOOKED_MAX):
                problem = control_error(at, "", key)
                if problem is not None:
                    yield problem
                yield from look_at(member, _joined(at, key), "")

    return look


def _look_of_value(convert: Converter, checks: list[Check]) -> Checker:
    def look(value: Any, at: str, name: str) -> Iterator[FieldError]:
        wrong = list(convert(value, at))
        if not wrong and isinstance(value, str | dict | list):
            texts = texts_in(value, at, name)
            wrong = [found for text in texts if (found := control_error(*text)) is not None]
        yield from wrong
        if not wrong:
            yield from _checked(checks, value, at)

    return look


def _converter(annotation: Any) -> Converter:
    """Says what is wrong with a value of a type, by way of a Struct: it remembers what its fields are."""
    holder = msgspec.defstruct("Holder", [("value", annotation)])

    def convert(value: Any, at: str) -> Iterator[FieldError]:
        try:
            msgspec.convert({"value": value}, holder)
        except msgspec.ValidationError as error:
            yield error_of(error, at, ".value")

    return convert


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
