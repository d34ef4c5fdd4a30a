"""The documentation: the OpenAPI document, and one self-contained HTML page that draws it.

Refuses anything from another server: it works on a machine without a network.
"""

from __future__ import annotations

import copy
import inspect
from importlib import resources
from typing import Any

import msgspec
from litestar import Request
from litestar.enums import MediaType
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin

from cartstore_api import problems, schemas
from cartstore_api.body_errors import described

_REFUSED = {
    "description": problems.description_of(422),
    "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


class DocsPage(OpenAPIRenderPlugin):
    """Serves the page at the documentation's root."""

    def __init__(self) -> None:
        super().__init__(path="/", media_type=MediaType.HTML, favicon="", style="")
        self._page = resources.files("cartstore_api").joinpath("static/docs.html").read_bytes()

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return self._page


class Document(JsonRenderPlugin):
    """Serves the document, with what Litestar does not say of our shapes; written once."""

    def __init__(self) -> None:
        super().__init__()
        self._document = b""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if not self._document:
            self._document = msgspec.json.encode(_completed(copy.deepcopy(openapi_schema)))
        return self._document


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    """Descriptions of the shapes, which members they refuse, and which bodies may be absent."""
    for name, schema in document["components"]["schemas"].items():
        shape = getattr(schemas, name, None) or getattr(problems, name)
        schema["description"] = inspect.cleandoc(shape.__doc__)
        if shape.__struct_config__.forbid_unknown_fields:
            schema["additionalProperties"] = False
        for member, is_list, said in described(shape):
            place = schema["properties"][member]
            if is_list:
                place = next(it["items"] for it in (place, *place.get("oneOf", ())) if "items" in it)
            place.update(said)
    for name, path in document["paths"].items():
        for operation in path.values():
            if name.startswith("/v1/") and "parameters" in operation:
                # Whatever a path takes, it refuses query parameters that it does not know.
                operation["responses"].setdefault("422", _REFUSED)
            body = operation.get("requestBody")
            content = body["content"].get("application/json") if body else None
            if content is not None and {"type": "null"} in content["schema"].get("oneOf", ()):
                body["required"] = False
    return document
