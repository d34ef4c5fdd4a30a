"""Where a request comes from. Owns how peer addresses and `X-Forwarded-For` are read.

`ClientAddresses.of` is the one function that tells a client's address. It believes forwarded addresses only
from the networks of the setting TRUSTED_PROXIES, and only as far as each hop was reported by one of them.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from cartstore.settings import networks_of
from cartstore_api.context import RequestContext

Address = IPv4Address | IPv6Address

_HOPS_MAX: Final = 32
"""Hops that are looked at; more are no chain of real proxies."""

_SUBNET_BITS: Final = 64
"""A host chooses the lower half of its IPv6 address itself, so callers are told apart by the upper half."""


class ClientAddresses:
    """Tells clients apart by address."""

    def __init__(self, trusted_proxies: str) -> None:
        """`trusted_proxies`: comma-separated networks. Raises ConfigurationError when one is none."""
        self._networks = networks_of(trusted_proxies)

    def of(self, context: RequestContext) -> str | None:
        """The client's address; None where the peer has none (it left before it was looked at)."""
        address = _parsed(context.peer) if context.peer else None
        if address is None or not self._is_trusted(address):
            return None if address is None else str(address)
        hops = context.items(b"x-forwarded-for")
        # Each proxy appends the address that it heard from, so only the last entries are known to be true:
        # those down to the first one that is no proxy of ours.
        for hop in reversed(hops[-_HOPS_MAX:]):
            found = _parsed(hop)
            if found is None:
                break
            address = found
            if not self._is_trusted(address):
                break
        return str(address)

    def group_of(self, peer: str | None) -> str | None:
        """What the connections of a peer are counted under: its IPv4 address, or the /64 of its IPv6 address.

        None for peers that are not counted: loopback and trusted proxies, which speak for many clients.
        """
        address = _parsed(peer) if peer else None
        if address is None or address.is_loopback or self._is_trusted(address):
            return None
        if isinstance(address, IPv4Address):
            return str(address)
        return f"{IPv6Address(int(address) >> _SUBNET_BITS << _SUBNET_BITS)}/{_SUBNET_BITS}"

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


@lru_cache(1_024)
def _parsed(text: str) -> Address | None:
    """An address, with or without a port; an IPv4 address inside of IPv6 as the IPv4 address."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
