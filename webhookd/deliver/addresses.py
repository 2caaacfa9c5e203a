"""The addresses that a destination may have: only public ones, unless its settings allow private ones.

The check is made for each socket, on the very address that the socket connects to. So a name that resolves to another address
the next time, and a literal address in whatever notation, are checked, too.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052; a gateway sends on to the address of IPv4 in the last 32 bits
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all public addresses of IPv6 so far

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Addresses that Python, or some release of it, counts as public, and that lead to no destination.
_NOT_PUBLIC = (
    ipaddress.ip_network("168.63.129.16/32"),  # the server of Azure that gives a machine its configuration
    ipaddress.ip_network("192.0.0.0/24"),  # IETF protocols (RFC 6890); Oracle's cloud has its metadata service here
    ipaddress.ip_network("192.88.99.0/24"),  # relays of 6to4 (RFC 7526)
    ipaddress.ip_network("3fff::/20"),  # documentation (RFC 9637)
)


class RefusedAddressError(OSError):
    """The destination's name leads to an address to which webhookd sends nothing."""


def is_public(host: str) -> bool:
    """Returns whether an address is public. `host` is an address of IPv4 or IPv6, as a socket takes it."""
    return all(_is_public(one) for one in _meant(ipaddress.ip_address(host.partition("%")[0])))


def _meant(address: Address) -> list[Address]:
    """Returns the address, and the addresses of IPv4 inside it to which a gateway may send the packets."""
    meant: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:  # the system connects to the address of IPv4
            return [address.ipv4_mapped]
        if address in _NAT64:
            return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
        if address.sixtofour is not None:
            meant.append(address.sixtofour)
        if address.teredo is not None:
            meant += address.teredo
    return meant


def _is_public(one: Address) -> bool:
    if isinstance(one, ipaddress.IPv6Address) and one not in _GLOBAL_UNICAST:
        return False
    if any(one in network for network in _NOT_PUBLIC):
        return False
    return one.is_global and not (one.is_private or one.is_multicast or one.is_reserved)


def public_socket(info: Any) -> socket.socket:
    """Makes the socket for one address of `getaddrinfo`. Raises RefusedAddressError if the address is not public."""
    family, kind, protocol, _, place = info
    if not is_public(str(place[0])):
        # Do not name the address. If a name has several addresses, the connector raises this error only if all texts are equal.
        raise RefusedAddressError("it is not a public address")
    return socket.socket(family, kind, protocol)
