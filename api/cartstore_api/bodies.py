"""How JSON bodies are read: strictly, by decoders that are built once per route.

Owns content types, malformed JSON, how deep a body may be nested, and characters that no stored text may
have. Litestar's own reading is lenient ("5" would pass for 5), so it is replaced at the seam that Litestar
offers for it. What is said of a body that is refused is in body_errors.py.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any, ClassVar

import msgspec
from litestar.dto import AbstractDTO, DTOConfig
from litestar.dto.data_structures import DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from cartstore import limits
from cartstore.nesting import is_deeper, place_deeper
from cartstore.texts import has_control, may_have_control
from cartstore_api import body_errors
from cartstore_api.context import SCOPE_KEY, RequestContext
from cartstore_api.field_checks import Bounds
from cartstore_api.problems import ProblemError, body_required
from cartstore_api.schemas import FieldError

_USUAL_TYPE = b"application/json"
_JSON = re.compile(r"application/(?:[A-Za-z0-9.+-]+\+)?json\Z", re.IGNORECASE)
_CHARSET = re.compile(r'charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)
_DEPTH_MAX = limits.JSON_DEPTH_MAX + 3
"""Of a whole body: what may be nested as deep as properties is at most the member of an entry of a list."""

_SHORT = 256
"""Bytes of a body that the decoder can read however it is nested; each member is looked at afterwards."""

_FREE = ("properties", "metadata")
"""Members whose value has no shape of its own."""


class BodyDecoder:
    """Decodes the bodies of one shape, and names everything that is wrong with one that is refused."""

    __slots__ = ("_annotation", "_checks", "_decode")

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._decode = msgspec.json.Decoder(annotation).decode
        self._checks = body_errors.checker_of(annotation)

    def decode(self, body: bytes, bounds: Bounds) -> Any:
        """Decode a body. Raises MALFORMED_JSON, VALIDATION_FAILED naming every member that is wrong.
        `bounds`: the shop's limits."""
        if len(body) > _SHORT and is_deeper(body, _DEPTH_MAX):
            raise _too_deep(body)
        try:
            value = self._decode(body)
        except msgspec.ValidationError as error:
            raise self._refusal(body, body_errors.error_of(error), bounds) from error
        except (msgspec.DecodeError, UnicodeError) as error:
            raise ProblemError("MALFORMED_JSON", f"The body is not JSON in UTF-8: {error}.") from error
        # Most bodies are plain; a look with a regular expression is for the others.
        if (not body.isascii() or b"\\" in body or b"\x7f" in body) and may_have_control(body):
            for path, name, text in body_errors.texts_in(value):
                found = body_errors.control_error(path, name, text)
                if found is not None:
                    raise self._refusal(body, found, bounds)
        if self._checks is not None:
            for found in self._checks(value, ""):
                raise self._refusal(body, found, bounds)
        return value

    def _refusal(self, body: bytes, first: FieldError, bounds: Bounds) -> ProblemError:
        errors = body_errors.errors_in(body, self._annotation, first, bounds)
        return ProblemError("VALIDATION_FAILED", errors[0].detail, field=errors[0].field, errors=errors)


class StrictBody(AbstractDTO[Any]):
    """Decodes the `data` of a handler by its annotation, exactly."""

    config: ClassVar[DTOConfig] = DTOConfig()
    _decoders: ClassVar[dict[str, BodyDecoder]] = {}

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        if field_definition.name == "data":
            cls._decoders[handler_id] = BodyDecoder(field_definition.raw)

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
        bounds: Bounds = self.asgi_connection.app.bounds  # type: ignore[attr-defined]
        return read_body(context, value, self._decoders[handler_id], bounds)


def read_body(context: RequestContext, body: bytes, decoder: BodyDecoder, bounds: Bounds) -> Any:
    """The body of a request, decoded. Raises MALFORMED_JSON, UNSUPPORTED_MEDIA_TYPE, VALIDATION_FAILED."""
    if not body:
        raise body_required()
    if b"content-encoding" in context.known:
        check_encoding(context)
    content_type = context.known.get(b"content-type")
    if content_type and content_type != _USUAL_TYPE:
        _check_media_type(content_type.decode("latin-1"))
    return decoder.decode(body, bounds)


def check_encoding(context: RequestContext) -> None:
    """Raise UNSUPPORTED_MEDIA_TYPE for a `Content-Encoding`: nothing decompresses bodies here, so a small
    body cannot become a large one."""
    if any(coding.lower() != "identity" for coding in context.items(b"content-encoding")):
        raise ProblemError(
            "UNSUPPORTED_MEDIA_TYPE",
            "This path takes bodies without a Content-Encoding.",
            headers=((b"accept-encoding", b"identity"),),
        )


def _check_media_type(content_type: str) -> None:
    """Raise UNSUPPORTED_MEDIA_TYPE unless it is JSON in UTF-8; a body without a type is taken as that."""
    media_type = content_type.partition(";")[0].strip()
    charset = _CHARSET.search(content_type)
    if not _JSON.match(media_type) or (charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii")):
        raise ProblemError("UNSUPPORTED_MEDIA_TYPE", "This path takes application/json in UTF-8.")


def _too_deep(body: bytes) -> ProblemError:
    """Names the member that has no shape of its own, else the outermost one, around what is too deep."""
    place = place_deeper(body, _DEPTH_MAX)[:3]
    named = next((number for number, part in enumerate(place, 1) if part in _FREE), 1)
    parts = (f"[{part}]" if isinstance(part, int) else f".{part[:64]}" for part in place[:named])
    field = "".join(parts).removeprefix(".") or body_errors.BODY
    return ProblemError(
        "VALIDATION_FAILED",
        f"{field} must not be nested more than {limits.JSON_DEPTH_MAX} levels deep.",
        field=field,
    )


def check_text(text: str, field: str, length_max: int) -> str:
    """A text from a path, a query or a header, when it can be used as one. Raises VALIDATION_FAILED."""
    if len(text) > length_max:
        raise ProblemError(
            "VALIDATION_FAILED", f"{field} may have at most {length_max} characters.", field=field
        )
    if has_control(text):
        raise ProblemError("VALIDATION_FAILED", f"{field} contains a control character.", field=field)
    return text
