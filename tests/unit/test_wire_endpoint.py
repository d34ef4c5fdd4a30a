"""URLs mean to the multiplexed connection what they mean to redis-py."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from cartstore.errors import ConfigurationError
from cartstore.redis.wire import Endpoint


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", {"host": "localhost", "port": 6379, "database": 0, "password": "", "tls": None}),
        ("redis://shop:7000", {"host": "shop", "port": 7000}),
        ("redis://shop/3", {"database": 3}),
        ("redis://shop/3?db=4", {"database": 4}),
        ("redis://:secret@shop", {"username": "", "password": "secret"}),
        ("redis://me:se%2Fcret@shop", {"username": "me", "password": "se/cret"}),
        ("redis://shop?username=me&password=secret", {"username": "me", "password": "secret"}),
        ("redis://[::1]:7000", {"host": "::1", "port": 7000}),
        ("unix:///run/shop.sock", {"path": "/run/shop.sock", "host": "", "database": 0}),
        ("unix:///run/a%20b.sock?db=2", {"path": "/run/a b.sock", "database": 2}),
        ("unix://me:secret@/run/shop.sock", {"username": "me", "password": "secret"}),
        ("redis://shop", {"client_name": "cartstore", "connect_timeout_seconds": 2.0}),
        ("redis://shop?client_name=worker", {"client_name": "worker"}),
        ("redis://shop?socket_timeout=9&socket_connect_timeout=0.5", {"call_timeout_seconds": 9.0}),
        ("redis://shop?socket_connect_timeout=0.5", {"connect_timeout_seconds": 0.5}),
        ("redis://shop?max_connections=9&timeout=3&protocol=3&socket_keepalive=no", {"host": "shop"}),
    ],
)
def test_endpoint_is_what_the_url_says(url: str, expected: dict[str, Any]) -> None:
    endpoint = Endpoint.from_url(url)

    assert {name: getattr(endpoint, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "is_verified", "checks_name"),
    [
        ("rediss://shop", ssl.CERT_REQUIRED, True),
        ("rediss://shop?ssl_check_hostname=no", ssl.CERT_REQUIRED, False),
        ("rediss://shop?ssl_cert_reqs=optional", ssl.CERT_OPTIONAL, True),
        ("rediss://shop?ssl_cert_reqs=none", ssl.CERT_NONE, False),
    ],
)
def test_endpoint_verifies_what_the_url_asks_for(
    url: str, is_verified: ssl.VerifyMode, checks_name: bool
) -> None:
    tls = Endpoint.from_url(url).tls

    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (is_verified, checks_name)


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@shop",
        "shop",
        "redis://:secret@shop?socket_timeout=soon",
        "redis://:secret@shop?no_such_option=1",
        "rediss://:secret@shop?ssl_cert_reqs=perhaps",
        "rediss://:secret@shop?ssl_ca_certs=/no/such/file",
        "redis://:secret@shop:port",
    ],
)
def test_endpoint_raises_configuration_error_without_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Endpoint.from_url(url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://me:secret@shop:7000/3", "unix:///run/shop.sock?password=secret&db=3"]
)
def test_endpoint_shows_its_place_and_no_password(url: str) -> None:
    shown = repr(Endpoint.from_url(url))

    assert "shop" in shown
    assert shown.endswith("/3)")
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("url", "commands"),
    [
        ("redis://shop", []),
        ("redis://:secret@shop/2", [("AUTH", "secret"), ("SELECT", "2")]),
        ("redis://me:secret@shop", [("AUTH", "me", "secret")]),
        ("redis://me@shop", [("AUTH", "me", "")]),
    ],
)
def test_greeting_says_who_we_are_and_where_to(url: str, commands: list[tuple[str, ...]]) -> None:
    assert Endpoint.from_url(url).greeting() == commands


def test_endpoint_takes_a_certificate_file(tmp_path: Path) -> None:
    """Only that the file is read: what it is good for is tested against a server."""
    (tmp_path / "ca.pem").write_text("no certificate")

    with pytest.raises(ConfigurationError):
        Endpoint.from_url(f"rediss://shop?ssl_ca_certs={tmp_path}/ca.pem")
