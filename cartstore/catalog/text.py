"""Texts and ids out of what shops export. Owns how HTML becomes text and how a name becomes an id."""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from typing import Final

from cartstore.limits import ID_LENGTH_MAX, RESERVED_IDS
from cartstore.model import is_sku
from cartstore.texts import without_control

_READABLE_LENGTH_MAX: Final = 100
"""Of the readable part of an id that ends in a digest."""

_TOKEN = re.compile(
    r"<!--|<(?P<close>/)?(?P<name>[A-Za-z][A-Za-z0-9]*)(?:[\s/][^<>]*)?>|<[!?][^<>]*>|[^<]+|<"
)
_INVISIBLE = frozenset({"script", "style", "head", "template"})
_BREAKING = frozenset(
    {
        *("address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure"),
        *(
            "footer",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "header",
            "hr",
            "li",
            "main",
            "nav",
            "ol",
            "p",
            "pre",
        ),
        *("section", "table", "td", "th", "tr", "ul"),
    }
)
_PLAIN = re.compile(r"[A-Za-z0-9]+(?: [A-Za-z0-9]+)*\Z")
_NOT_READABLE = re.compile(r"[^A-Za-z0-9._-]+")


def text_of_html(source: str) -> str:
    """What a reader sees of a fragment of HTML, with line breaks between blocks.

    One pass over the tokens, so that no text, however odd, takes more than linear time.
    """
    parts: list[str] = []
    hidden_until: str | None = None
    position = 0
    while position < len(source):
        token = _TOKEN.match(source, position)
        if token is None:  # pragma: no cover - the last two alternatives match any character
            break
        position = token.end()
        name = (token["name"] or "").lower()
        if token[0] == "<!--":
            end = source.find("-->", position)
            position = len(source) if end < 0 else end + 3
        elif hidden_until is not None:
            if name == hidden_until and token["close"]:
                hidden_until = None
        elif name in _INVISIBLE:
            hidden_until = None if token["close"] else name
        elif name:
            parts.append("\n" if name in _BREAKING else "")
        elif not token[0].startswith(("<!", "<?")):
            parts.append(token[0])
    return _tidy(html.unescape("".join(parts)))


def _tidy(text: str) -> str:
    visible = without_control(text, is_multiline=True)
    lines = (" ".join(line.split()) for line in visible.split("\n"))
    return "\n".join(line for line in lines if line)


def one_line(text: str) -> str:
    """The text with control characters as spaces, and no space around it."""
    return without_control(text, " ").strip()


def id_of(text: str) -> str:
    """An id for a name: the name itself where it may be one, else a readable part, `~` and a digest.

    Depends on nothing but the name, so it is the same in every import; two names never get one id.
    """
    if is_sku(text) and text not in RESERVED_IDS:
        return text
    return f"{_readable(text) or 'x'}~{_digest(text)}"


def generated_sku(product_id: str, values: tuple[str, ...]) -> str:
    """A SKU out of a product's id and the values of its options: `tee.dark-red.s`.

    A dot parts them, because neither handles nor plain values have one; a value of more than ASCII letters,
    digits and single spaces carries a digest, so that `S/M` and `S-M` differ.
    """
    sku = ".".join((product_id, *(_part(value) for value in values)))
    return sku if len(sku) <= ID_LENGTH_MAX else f"{sku[:_READABLE_LENGTH_MAX]}~{_digest(sku)}"


def _part(value: str) -> str:
    if _PLAIN.match(value):
        return value.lower().replace(" ", "-")
    return f"{_readable(value).lower()}~{_digest(value)}"


def _readable(text: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _NOT_READABLE.sub("-", ascii_only).strip("-")[:_READABLE_LENGTH_MAX]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
