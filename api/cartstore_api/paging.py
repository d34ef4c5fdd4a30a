"""How pages of lists are asked for."""

from __future__ import annotations

from typing import Annotated

from litestar.params import QueryParameter

from cartstore import limits
from cartstore_api.bodies import check_text

CURSOR_LENGTH_MAX = 512

Limit = Annotated[
    int, QueryParameter(ge=1, le=limits.PAGE_SIZE_MAX, description="How many entries the page has at most.")
]
Cursor = Annotated[
    str | None, QueryParameter(description="`next_cursor` of the page before; absent for the first page.")
]


def check_cursor(cursor: str | None) -> str | None:
    """Raises VALIDATION_FAILED for what no list ever gave."""
    return check_text(cursor, "cursor", CURSOR_LENGTH_MAX) if cursor else None
