"""JSON whose shape is the caller's own: properties of a line, and what is kept with a checkout. Owns its
bounds and its one spelling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import rfc8785

from cartstore import limits
from cartstore.errors import InvalidField
from cartstore.nesting import is_deeper
from cartstore.texts import has_control, may_have_control

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode

_INTEGER_EXACT_MAX = 2**53 - 1
"""The largest integer up to which a double tells every integer from the next one."""


def canonical_properties(properties: Mapping[str, Any] | None, field: str = "properties") -> str | None:
    """The one JSON text of these properties (RFC 8785), so that equal properties make the same line: `1` and
    `1.0` are one number, whatever a client's JSON encoder makes of it.

    Raises InvalidField (`field`) for control characters, values that are no JSON, integers that a double
    cannot keep, more than PROPERTIES_BYTES_MAX bytes, or nesting deeper than JSON_DEPTH_MAX. Empty properties
    are none.
    """
    if not properties:
        return None
    encoded = _encoded(properties, field)
    # The canonical text has at least a third of that length ("-0.0," becomes "0,"), and is slow to make.
    if len(encoded) <= 3 * limits.PROPERTIES_BYTES_MAX:
        encoded = rfc8785.dumps(_as_doubles(_decode_object(encoded), field))
    if len(encoded) > limits.PROPERTIES_BYTES_MAX:
        raise InvalidField(
            f"{field} have {len(encoded)} bytes as JSON; at most {limits.PROPERTIES_BYTES_MAX} are kept.",
            field=field,
        )
    if may_have_control(encoded) and any(has_control(part) for part in _texts_in(properties)):
        raise InvalidField(f"{field} contain a control character.", field=field)
    return encoded.decode()


def check_properties_json(text: str | None, field: str) -> None:
    """Raise InvalidField unless this is a text that `canonical_properties` gave: equal properties spelled in
    two ways would make two lines."""
    if text is None:
        return
    try:
        is_canonical = not is_deeper(text.encode(), limits.JSON_DEPTH_MAX) and (
            canonical_properties(_decode_object(text), field) == text
        )
    except (msgspec.DecodeError, UnicodeError):
        is_canonical = False
    if not is_canonical:
        raise InvalidField(f"{field} is not the text that canonical_properties gives.", field=field)


def check_metadata(metadata: Mapping[str, Any], field: str = "metadata") -> None:
    """Raise InvalidField for metadata that cannot be kept with a checkout: no JSON, too large or too deep."""
    size = len(_encoded(metadata, field))
    if size > limits.METADATA_BYTES_MAX:
        raise InvalidField(
            f"{field} has {size} bytes as JSON; at most {limits.METADATA_BYTES_MAX} are kept.", field=field
        )


def _encoded(value: Any, field: str, depth_max: int = limits.JSON_DEPTH_MAX) -> bytes:
    """As JSON with its members in order. Raises InvalidField (`field`)."""
    try:
        encoded = msgspec.json.encode(value, order="sorted")
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidField(f"{field} must be a JSON object.", field=field) from error
    except RecursionError as error:
        raise _too_deep(field) from error
    if is_deeper(encoded, depth_max):
        raise _too_deep(field)
    return encoded


def _as_doubles(value: Any, field: str) -> Any:
    """`value` with its large integers as the doubles that RFC 8785 takes all numbers for. Raises InvalidField
    (`field`) for an integer that another one has the same double as: two variations would be one."""
    if isinstance(value, dict):
        return {name: _as_doubles(member, field) for name, member in value.items()}
    if isinstance(value, list):
        return [_as_doubles(member, field) for member in value]
    if type(value) is not int or -_INTEGER_EXACT_MAX <= value <= _INTEGER_EXACT_MAX:
        return value
    try:
        double = float(value)
        # What is stored must be accepted when it is sent again, so the text that is stored counts.
        is_kept = int(rfc8785.dumps(double)) == value
    except (OverflowError, ValueError):
        is_kept = False
    if not is_kept:
        raise InvalidField(
            f"{field} contain an integer beyond {_INTEGER_EXACT_MAX}; send it as a text.", field=field
        )
    return double


def _too_deep(field: str) -> InvalidField:
    return InvalidField(
        f"{field} must not be nested more than {limits.JSON_DEPTH_MAX} levels deep.", field=field
    )


def _texts_in(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, member in value.items():
            yield str(name)
            yield from _texts_in(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from _texts_in(member)


def details_text(details: Mapping[str, Any] | None) -> str:
    """What is kept with a checkout. Raises InvalidField, naming the member that cannot be kept."""
    if not details:
        return "{}"
    for name, member in details.items():
        if name == "metadata":
            check_metadata(member)
        else:
            _encoded(member, str(name))
    return _encoded(details, "details", limits.JSON_DEPTH_MAX + 1).decode()
