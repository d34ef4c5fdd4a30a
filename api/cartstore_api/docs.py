"""The documentation page: one self-contained HTML file that draws the OpenAPI document.

Refuses anything from another server: it works on a machine without a network.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from litestar import Request
from litestar.enums import MediaType
from litestar.openapi.plugins import OpenAPIRenderPlugin


class DocsPage(OpenAPIRenderPlugin):
    """Serves the page at the documentation's root."""

    def __init__(self) -> None:
        super().__init__(path="/", media_type=MediaType.HTML, favicon="", style="")
        self._page = resources.files("cartstore_api").joinpath("static/docs.html").read_bytes()

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return self._page
