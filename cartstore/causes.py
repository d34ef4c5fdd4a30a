"""Owns the words for why a server cannot be reached: they name what an operator has to look at.

For logs and terminals. They may name hosts and users, and never quote a password.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator


def cause_of(error: BaseException, *, authority_option: str, seconds: float) -> str:
    """Why a connection did not come about.

    `authority_option`: how the URL names the file of a certificate authority. `seconds`: what was waited for
    an answer. Drivers wrap what the socket said, so the errors behind `error` are looked at too.
    """
    for behind in _chain(error):
        if isinstance(behind, ssl.SSLCertVerificationError):
            return (
                f"its TLS certificate is not trusted ({behind.verify_message.rstrip('.')}); the file of its "
                f"authority is named by {authority_option}"
            )
        if isinstance(behind, ssl.SSLError):
            if behind.reason == "WRONG_VERSION_NUMBER":
                return "the server speaks no TLS on this port, and the URL demands it"
            return f"TLS failed ({behind.reason or behind})"
        if isinstance(behind, socket.gaierror):
            return f"no such host ({behind.strerror})"
        if isinstance(behind, ConnectionRefusedError):
            return "connection refused"
    # asyncio's and the socket's; a driver's class of that name comes from none of them.
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return f"no answer within {seconds:g} s"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).partition("\n")[0].rstrip(".")


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__
