"""Characters that no stored text may have: control characters, and halves of surrogate pairs, which no UTF-8
can carry. Owns how they are found; every search is one call of a regular expression, never a loop in Python.
"""

from __future__ import annotations

import re
from typing import Final

_CONTROL: Final = "\x00-\x1f\x7f-\x9f\ud800-\udfff"
"""The Unicode categories Cc and Cs, which are closed: no later version of Unicode adds to them."""

_ANY: Final = re.compile(f"[{_CONTROL}]")
_OTHER_THAN_BREAKS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_SUSPICIOUS: Final = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\\[bfnrtu]")


def has_control(text: str, *, is_multiline: bool = False) -> bool:
    """Whether a text has such a character; a multiline text may have line breaks and tabs."""
    return (_OTHER_THAN_BREAKS if is_multiline else _ANY).search(text) is not None


def without_control(text: str, replacement: str = "", *, is_multiline: bool = False) -> str:
    """The text with each such character replaced."""
    return (_OTHER_THAN_BREAKS if is_multiline else _ANY).sub(replacement, text)


def may_have_control(json: bytes) -> bool:
    """Whether a text of valid JSON may have a control character; False is certain, True is not.

    JSON has a control character below 0x20 only as an escape, and the others as themselves or as an escape.
    """
    return _SUSPICIOUS.search(json) is not None
