"""How JSON bodies are read: strictly, by decoders that are built once per route.

Owns content types, malformed JSON, and characters that no stored text may have. Litestar's own reading
is lenient ("5" would pass for 5), so it is replaced at the seam that Litestar offers for it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Generator, Iterator
from typing import Any, ClassVar

import msgspec
from litestar.dto import AbstractDTO, DTOConfig
from litestar.dto.data_structures import DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from cartstore_api.context import SCOPE_KEY, RequestContext
from cartstore_api.problems import ProblemError, body_required

_USUAL_TYPE = b"application/json"
_JSON = re.compile(r"application/(?:[A-Za-z0-9.+-]+\+)?json\Z", re.IGNORECASE)
_CHARSET = re.compile(r'charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<name>.*)`", re.DOTALL)
_REASON = re.compile(r"(?P<reason>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?\Z", re.DOTALL)
_BACKSLASH, _DELETE = b"\\\x7f"
_MULTILINE = frozenset({"description"})
"""Members whose text may have line breaks and tabs."""


class StrictBody(AbstractDTO[Any]):
    """Decodes the `data` of a handler by its annotation, exactly."""

    config: ClassVar[DTOConfig] = DTOConfig()
    _decoders: ClassVar[dict[str, msgspec.json.Decoder[Any]]] = {}

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        if field_definition.name == "data":
            cls._decoders[handler_id] = msgspec.json.Decoder(field_definition.raw)

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: Any
    ) -> Reference | Schema:
        schema: Reference | Schema = schema_creator.for_field_definition(field_definition)
        return schema

    @classmethod
    def is_supported_model_type_field(cls, field_definition: FieldDefinition) -> bool:
        """Only bodies are read here; answers are written by Litestar."""
        return False

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Generator[DTOFieldDefinition, None, None]:
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        return False

    def decode_bytes(self, value: bytes) -> Any:
        """The body as the handler's type. Raises ProblemError."""
        context: RequestContext = self.asgi_connection.scope[SCOPE_KEY]  # type: ignore[typeddict-item]
        handler_id = self.asgi_connection.route_handler.handler_id
        return read_body(context, value, self._decoders[handler_id])


def read_body(context: RequestContext, body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """The body of a request, decoded. Raises MALFORMED_JSON, UNSUPPORTED_MEDIA_TYPE, VALIDATION_FAILED."""
    if not body:
        raise body_required()
    content_type = context.known.get(b"content-type")
    if content_type and content_type != _USUAL_TYPE:
        _check_media_type(content_type.decode("latin-1"))
    return decode(body, decoder)


def _check_media_type(content_type: str) -> None:
    """Raise UNSUPPORTED_MEDIA_TYPE unless it is JSON in UTF-8; a body without a type is taken as that."""
    media_type = content_type.partition(";")[0].strip()
    charset = _CHARSET.search(content_type)
    if not _JSON.match(media_type) or (charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii")):
        raise ProblemError("UNSUPPORTED_MEDIA_TYPE", "This path takes application/json in UTF-8.")


def decode(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """Decode a body. Raises MALFORMED_JSON, VALIDATION_FAILED naming the member."""
    try:
        value = decoder.decode(body)
        # A raw control character below 0x20 is no JSON; any other needs one of these to get through.
        if not body.isascii() or _BACKSLASH in body or _DELETE in body:
            check_texts(value)
    except msgspec.ValidationError as error:
        raise _refusal_of(error) from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ProblemError("MALFORMED_JSON", f"The body is not JSON in UTF-8: {error}.") from error
    except RecursionError as error:
        raise ProblemError("MALFORMED_JSON", "The body is nested too deeply.") from error
    return value


def check_texts(value: Any) -> None:
    """Raise VALIDATION_FAILED for a control character anywhere in the texts of a decoded body."""
    for path, name, text in _texts_of(value, "", ""):
        is_multiline = name in _MULTILINE
        if any(is_control(character) and not (is_multiline and character in "\n\r\t") for character in text):
            raise ProblemError("VALIDATION_FAILED", f"{path} contains a control character.", field=path)


def is_control(character: str) -> bool:
    """Control characters, and the surrogates that no UTF-8 text can have."""
    return unicodedata.category(character) in ("Cc", "Cs")


def check_text(text: str, field: str, length_max: int) -> str:
    """A text from a path, a query or a header, when it can be used as one. Raises VALIDATION_FAILED."""
    if len(text) > length_max:
        raise ProblemError(
            "VALIDATION_FAILED", f"{field} may have at most {length_max} characters.", field=field
        )
    if any(is_control(character) for character in text):
        raise ProblemError("VALIDATION_FAILED", f"{field} contains a control character.", field=field)
    return text


def _texts_of(value: Any, path: str, name: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, str):
        yield path or "body", name, value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _texts_of(getattr(value, field), f"{path}.{field}" if path else field, field)
    elif isinstance(value, dict):
        for key, member in value.items():
            yield path or "body", "", str(key)
            yield from _texts_of(member, f"{path}.{key}" if path else str(key), "")
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from _texts_of(member, f"{path}[{number}]", name)


def _refusal_of(error: msgspec.ValidationError) -> ProblemError:
    match = _REASON.match(str(error))
    reason, path = (match["reason"], match["path"] or "") if match else (str(error), "")
    if unknown := _UNKNOWN_FIELD.search(reason):
        path = f"{path}.{unknown['name']}"
        reason = "unknown field"
    field = path.removeprefix(".") or "body"
    return ProblemError("VALIDATION_FAILED", f"{field}: {reason.replace('`', '')}.", field=field)
