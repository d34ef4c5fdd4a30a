"""Holds every answer that the tests of the API get to the OpenAPI document: its status and its problem code.

`Api.client` calls `check_documented` for each answer, so that no operation can answer with a code that the
document does not list for it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import httpx
from cartstore_api.app import create_app
from cartstore_api.document import completed
from cartstore_api.problem_codes import ANYWHERE

from cartstore.settings import Settings


@cache
def openapi_document() -> Any:
    """The document as the application serves it."""
    return completed(create_app(Settings(jwt_secret="x" * 40)).openapi_schema.to_schema())


@cache
def _operations() -> list[tuple[re.Pattern[str], str, Any]]:
    """Path, method and operation; paths without parameters first, as they are routed."""
    paths = sorted(openapi_document()["paths"].items(), key=lambda entry: "{" in entry[0])
    return [
        (re.compile(re.sub(r"\\{[a-z_]+\\}", "[^/]+", re.escape(path))), method.upper(), operation)
        for path, item in paths
        for method, operation in item.items()
    ]


async def check_documented(answer: httpx.Response) -> None:
    """Raises AssertionError when the document does not know this answer of its operation."""
    request = answer.request
    if answer.headers.get("content-type", "").startswith("application/problem+json"):
        await answer.aread()
    for pattern, method, operation in _operations():
        if request.method == method and pattern.fullmatch(request.url.path):
            _check(answer, operation)
            return


def _check(answer: httpx.Response, operation: Any) -> None:
    name, status = operation["operationId"], str(answer.status_code)
    found = operation["responses"].get(status)
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        assert found is not None, f"{name} does not document {status}."
        return
    code = answer.json()["code"]
    if code in ANYWHERE:
        return
    codes = found["x-codes"] if found is not None else []
    assert code in codes, f"{name} does not document {code}: add it to problem_codes.py."
