"""Owns what the URL of a server says: whether it can be used, where it leads, and how it is shown.

Refuses to connect. No text that it gives quotes a password: a password with a special character is what a
wrong URL most often consists of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from redis import Redis
from redis.exceptions import RedisError

ENGINE_SCHEMES: Final = ("redis", "rediss", "unix")
DATABASE_SCHEMES: Final = ("postgresql", "postgres", "postgresql+asyncpg")

PORT_MAX: Final = 65_535

QUEUE_DATABASE: Final = 1
"""The number of RQ's database on the engine's server, where no URL names another; carts are in 0."""

_LOCAL_HOSTS: Final = ("", "localhost", "127.0.0.1", "[::1]")
_DEFAULT_PORT: Final = "6379"
_DATABASE_PORT: Final = "5432"

_OTHER_ENGINES: Final = {
    "valkey": "has the scheme valkey://; write it as redis://",
    "valkeys": "has the scheme valkeys://; write it as rediss://",
}


def engine_url_fault(url: str) -> str | None:
    """What is wrong with the URL of an engine or of RQ's Redis, to be read after the setting's name."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _scheme_fault(ENGINE_SCHEMES)
    if "sentinel" in scheme:
        return (
            "names Sentinels, which cartstore does not ask. Name the primary itself, by an address that "
            "follows it (a virtual IP, a DNS name or a proxy): redis://HOST:PORT/0"
        )
    if "cluster" in scheme:
        return "names a cluster, which is not supported. Name one primary: redis://HOST:PORT/0"
    if scheme in _OTHER_ENGINES:
        return _OTHER_ENGINES[scheme]
    if scheme not in ENGINE_SCHEMES:
        return _scheme_fault(ENGINE_SCHEMES)
    hosts = _hosts_of(rest)
    # A comma may also be in a password that is not percent-encoded: then no @ is left before the slash.
    if scheme != "unix" and len(hosts) > 1:
        return f"names {len(hosts)} hosts, and an engine has one. Name the primary: {scheme}://HOST:PORT/0"
    port_fault = None if scheme == "unix" else _port_fault(hosts)
    return port_fault or _number_fault(url) or _option_fault(url)


def database_url_fault(url: str) -> str | None:
    """What is wrong with the URL of a PostgreSQL database, to be read after the setting's name."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in DATABASE_SCHEMES:
        return _scheme_fault(DATABASE_SCHEMES)
    # Several hosts are fine: libpq's form of a URL has them.
    return _port_fault(_hosts_of(rest))


def database_number(engine_url: str) -> int | None:
    """The number that an engine's URL selects, as redis-py reads it: `?db=`, else the path.

    None when that is no number.
    """
    parts = urlsplit(engine_url)
    text = dict(parse_qsl(parts.query)).get("db", "")
    if not text and parts.scheme != "unix":
        text = unquote(parts.path).removeprefix("/")
    return int(text or 0) if (text or "0").isdecimal() else None


def is_same_database(one_url: str, other_url: str) -> bool:
    """Whether two engine URLs without fault lead to one database of one server, as far as they tell."""
    return _place_of(one_url) == _place_of(other_url)


def without_secret(url: str) -> str:
    """Where a URL leads, for people: no user, no password, no options."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    socket_folder = dict(part.partition("=")[::2] for part in parts.query.split("&")).get("host", "")
    return f"{parts.scheme}://{host}{parts.path}" + (f" in {socket_folder}" if socket_folder else "")


def engine_place(url: str) -> str:
    """Host and port of an engine's URL, or its socket, for people."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"the socket {parts.path}"
    host, bracket, rest = parts.netloc.rpartition("@")[2].rpartition("]")
    name, _, port = rest.partition(":")
    return f"{host}{bracket}{name or ('' if bracket else 'localhost')} port {port or _DEFAULT_PORT}"


def database_place(url: str) -> str:
    """Host and port of a database's URL, for people; several where it names several."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    options = dict(parse_qsl(parts.query))
    if not hosts:
        host, port = options.get("host", "the default host"), options.get("port", _DATABASE_PORT)
        return f"the socket in {host}" if host.startswith("/") else f"{host} port {port}"
    return ", ".join(_host_and_port(host) for host in hosts.split(","))


def _host_and_port(text: str) -> str:
    bracket, _, rest = text.rpartition("]")
    name, _, port = rest.partition(":")
    return f"{bracket + ']' if bracket else ''}{name} port {port or _DATABASE_PORT}"


def _scheme_fault(schemes: Sequence[str]) -> str:
    return f"must be a {schemes[0]}:// URL"


def _hosts_of(rest: str) -> list[str]:
    """Host and port of each node, from what comes after the scheme."""
    return rest.partition("/")[0].partition("?")[0].rpartition("@")[2].split(",")


def _port_fault(hosts: Sequence[str]) -> str | None:
    for host in hosts:
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isdecimal() and 0 < int(port) <= PORT_MAX):
            return (
                f"has a port that is not a number from 1 to {PORT_MAX}. Special characters in a password "
                "must be percent-encoded"
            )
    return None


def _number_fault(url: str) -> str | None:
    if database_number(url) is None:
        # redis-py takes database 0 for it and says nothing.
        return "has a database number that is none: after the host comes nothing or a number, as in /0"
    parts = urlsplit(url)
    path = unquote(parts.path).removeprefix("/")
    if parts.scheme != "unix" and path and int(path) != database_number(url):
        return "names two database numbers, one in its path and one as ?db="
    return None


def _option_fault(url: str) -> str | None:
    """By redis-py itself, which connects to nothing until it is used."""
    try:
        with Redis.from_url(url) as client:
            client.connection_pool.make_connection()
    except (ValueError, RedisError) as error:
        return f"cannot be used: {str(error).rstrip('.')}"
    except TypeError as error:
        # "... got an unexpected keyword argument 'name'"
        return f"has an option that is none: {str(error).rpartition(' ')[2]}"
    return None


def _place_of(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path, "", database_number(url)
    host, port = parts.netloc.rpartition("@")[2], _DEFAULT_PORT
    name, separator, given = host.rpartition(":")
    if separator and "]" not in given:
        host, port = name, given or port
    return "localhost" if host in _LOCAL_HOSTS else host.lower(), port, database_number(url)
