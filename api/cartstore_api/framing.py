"""What RFC 9112 asks of a request's head beyond what the parser checks, and what refusals say.

The parser (llhttp) refuses everything that is ambiguous about lengths, line ends and field names. Owns the
rest: the version, the request target, `Host`, and transfer codings. Refuses whatever a proxy in front could
read differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import httptools

from cartstore_api.context import RawHeader
from cartstore_api.problems import ProblemError

METHODS: Final = b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]{0,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?\Z")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://(?P<authority>[^/?]+)(?P<rest>[/?].*)?\Z", re.DOTALL)
_DIGITS_MAX: Final = 20
"""Of a length that the parser takes, which is below 2^64; more are leading zeros."""

_TLS: Final = b"\x16\x03"


def is_host(value: bytes) -> bool:
    """Whether a value of `Host` is one: a name or an address, and perhaps a port."""
    return _HOST.match(value) is not None


def check_head(
    method: bytes, version: str, target: bytes, headers: list[RawHeader]
) -> tuple[bytes, list[RawHeader]]:
    """The request's target in origin form (or `*`), and its headers with the host that the target names.

    Raises ProblemError: MALFORMED_REQUEST, and METHOD_NOT_ALLOWED for CONNECT.
    """
    if version not in ("1.1", "1.0"):
        raise malformed(f"HTTP/{version} is not served here; HTTP/1.1 is.")
    if method == b"CONNECT":
        raise ProblemError(
            "METHOD_NOT_ALLOWED", "This is no proxy: CONNECT is not served.", headers=((b"allow", METHODS),)
        )
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1:
        raise malformed("The request has more than one Host.")
    if not hosts and version == "1.1":
        raise malformed("The request has no Host.")
    if hosts and not is_host(hosts[0]):
        raise malformed("Host is not the name or address of a host.")
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings:
        if version == "1.0":
            raise malformed("HTTP/1.0 has no Transfer-Encoding.")
        if [value.lower() for value in codings] != [b"chunked"]:
            raise malformed("Transfer-Encoding may only be chunked.")
    if any(name == b"content-length" and len(value) > _DIGITS_MAX for name, value in headers):
        raise malformed("Content-Length has too many digits.")
    if target[:1] == b"/" and b"#" not in target:
        return target, headers
    return _check_unusual_target(method, target, headers)


def _check_unusual_target(
    method: bytes, target: bytes, headers: list[RawHeader]
) -> tuple[bytes, list[RawHeader]]:
    if target == b"*" and method == b"OPTIONS":
        return target, headers
    absolute = _ABSOLUTE.match(target)
    if absolute is None or b"#" in target:
        raise malformed("The request target is not a path.")
    authority, rest = absolute["authority"], absolute["rest"] or b""
    if not is_host(authority):
        raise malformed("The request target names no host.")
    # The target's host counts, whatever Host says (RFC 9112, 3.2.2).
    headers = [(b"host", authority), *(header for header in headers if header[0] != b"host")]
    if not rest and method == b"OPTIONS":
        return b"*", headers
    return rest if rest[:1] == b"/" else b"/" + rest, headers


def malformed(detail: str) -> ProblemError:
    return ProblemError("MALFORMED_REQUEST", detail)


def refusal_of(error: httptools.HttpParserError, data: bytes) -> Exception:
    """What bytes are answered that the parser does not take: a problem that says what is wrong with them.

    An exception that a callback raised is given as it is, so that a defect of ours is told as one.
    """
    if isinstance(error, httptools.HttpParserCallbackError) and error.__context__ is not None:
        cause = error.__context__
        if isinstance(cause, httptools.HttpParserInvalidURLError | UnicodeDecodeError):
            return malformed("The request target is not a path.")
        return cause if isinstance(cause, Exception) else error
    reason = str(error)
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        if data.startswith(_TLS):
            return malformed("These are bytes of TLS; plain HTTP/1.1 is served here.")
        return malformed("The request does not begin with a method of HTTP and a space.")
    if "PRI" in reason:
        return malformed("HTTP/2 is not served here; HTTP/1.1 is.")
    return malformed(f"The request is not HTTP/1.1: {reason}.")


def head_without_upgrade(method: bytes, version: str, target: bytes, headers: Iterable[RawHeader]) -> bytes:
    """A head to be parsed again, as if it did not ask for another protocol: it then has its body."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode("ascii"))]
    lines += [b"%b: %b" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
