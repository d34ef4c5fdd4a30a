"""Owns the socket that the API listens on: bound before the process that serves on it, so that an address
that is taken is said at once and in one line."""

from __future__ import annotations

import os
import socket

from cartstore.errors import ConfigurationError

BACKLOG = 2_048


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigurationError when that cannot be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        # Bound here and not in a child: a restart of the API leaves no gap in which connections fail.
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        # Plain numbers have a plain text; only a name that is not found brings its own.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ConfigurationError(f"Cannot listen on {host} port {port}: {why}.") from error
