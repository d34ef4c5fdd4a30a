"""Web origins: scheme, host and port of a page or of this service, in the form in which browsers send them.

Owns how an origin is read from a setting, so that a request's `Origin` can be compared with it as bytes, and
what is wrong with settings about browsers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?\Z|\[[0-9a-f:.]+\]\Z")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'+.^_`|~-]{1,64}\Z")
_PORT_MAX = 65_535


def origin_of(url: str) -> str | None:
    """The origin of an http(s) URL as browsers send it: lower case, without the scheme's own port.

    None for anything else: another scheme, a user name, a host with a wildcard or beyond ASCII.
    """
    parts = _split(url)
    if parts is None or parts.username is not None or parts.password is not None:
        return None
    authority = authority_of(parts.netloc, parts.scheme)
    return None if authority is None else f"{parts.scheme}://{authority}"


def read_origin(text: str) -> str | None:
    """As `origin_of`, for a text that must be an origin and nothing more; a final slash is taken, too."""
    parts = _split(text)
    if parts is None or parts.path not in ("", "/") or "?" in text or "#" in text:
        return None
    return origin_of(text)


def authority_of(text: str, scheme: str) -> str | None:
    """Host and port of a `Host` header or of an URL, without the scheme's own port; None if it is neither."""
    host, port = text.lower(), ""
    if match := re.search(r":([0-9]{0,5})\Z", host):
        host, port = host[: match.start()], match[1]
    if not _HOST.match(host) or (port and int(port) > _PORT_MAX):
        return None
    if not port or int(port) == _DEFAULT_PORTS.get(scheme):
        return host
    return f"{host}:{int(port)}"


def items_of(text: str) -> list[str]:
    """The items of a comma-separated setting."""
    return [item for item in (part.strip() for part in text.split(",")) if item]


def browser_faults(public_url: str, cors_origins: str, cors_headers: str) -> Iterator[tuple[str, str]]:
    """The name of each setting that no browser could work with, and what is wrong with it."""
    if public_url and (origin_of(public_url) is None or "?" in public_url or "#" in public_url):
        yield (
            "public_url",
            "must be an http:// or https:// URL without a user name, a query or a fragment, for example "
            "https://shop.example",
        )
    for text in items_of(cors_origins):
        if "*" in text:
            yield (
                "cors_origins",
                "must not have a *: cookies are sent along, so any page could act for its visitor. Name each "
                "origin",
            )
        elif read_origin(text) is None:
            yield (
                "cors_origins",
                f"has {text[:100]!r}, which is no origin such as https://www.shop.example (without a path; a "
                "host beyond ASCII in its xn-- form)",
            )
    for name in items_of(cors_headers):
        if not _HEADER_NAME.match(name):
            yield "cors_headers", f"has {name[:100]!r}, which is no name of a header"


def _split(url: str) -> SplitResult | None:
    if not url.isascii() or not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts if parts.scheme in _DEFAULT_PORTS and parts.netloc else None
