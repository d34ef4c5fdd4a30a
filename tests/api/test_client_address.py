"""Which address a request comes from, behind proxies that are trusted and others."""

from __future__ import annotations

import pytest
from cartstore_api.client_address import ClientAddresses
from cartstore_api.context import RequestContext

from cartstore.errors import ConfigurationError
from cartstore.settings import Settings

PROXIES = "10.0.0.0/8, 192.0.2.1, fd00::/8"


def _context(peer: str | None, *forwarded: str) -> RequestContext:
    context = RequestContext([(b"x-forwarded-for", value.encode()) for value in forwarded])
    context.peer = peer
    return context


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("10.1.2.3", ["203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["198.51.100.9, 203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["203.0.113.7, 10.9.9.9"], "203.0.113.7"),
        ("10.1.2.3", ["203.0.113.7", "192.0.2.1"], "203.0.113.7"),
        ("10.1.2.3", ["203.0.113.7:4711"], "203.0.113.7"),
        ("10.1.2.3", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.1.2.3", ["2001:db8::7"], "2001:db8::7"),
        ("::ffff:10.1.2.3", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("fd00::1", ["203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["10.4.4.4"], "10.4.4.4"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.7, unknown"], "10.1.2.3"),
        ("10.1.2.3", ["unknown, 203.0.113.7"], "203.0.113.7"),
        ("192.0.2.2", ["203.0.113.7"], "192.0.2.2"),
        ("127.0.0.1", ["203.0.113.7"], "127.0.0.1"),
        (None, ["203.0.113.7"], None),
    ],
)
def test_forwarded_address_is_believed_when_a_trusted_proxy_tells_it(
    peer: str | None, forwarded: list[str], expected: str | None
) -> None:
    assert ClientAddresses(PROXIES).of(_context(peer, *forwarded)) == expected


def test_no_forwarded_address_is_believed_when_no_proxy_is_trusted() -> None:
    assert ClientAddresses("").of(_context("10.1.2.3", "203.0.113.7")) == "10.1.2.3"


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.9.9.9", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("10.1.2.3", None),
        (None, None),
    ],
)
def test_connections_are_counted_per_address_unless_the_peer_is_near_or_trusted(
    peer: str | None, expected: str | None
) -> None:
    assert ClientAddresses(PROXIES).group_of(peer) == expected


@pytest.mark.parametrize("text", ["10.0.0.0/33", "proxy.example", "10.0.0.1/8", "1.2.3.4;5.6.7.8"])
def test_settings_are_refused_when_a_trusted_proxy_is_no_network(text: str) -> None:
    with pytest.raises(ConfigurationError, match="CARTSTORE_TRUSTED_PROXIES"):
        Settings(trusted_proxies=text)
