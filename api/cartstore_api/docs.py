"""The documentation: the OpenAPI document, and one self-contained HTML page that draws it.

Refuses anything from another server: it works on a machine without a network.
"""

from __future__ import annotations

import copy
from importlib import resources
from typing import Any

import msgspec
from litestar import Request
from litestar.enums import MediaType
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin

from cartstore_api.document import completed


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
            self._document = msgspec.json.encode(completed(copy.deepcopy(openapi_schema)))
        return self._document
