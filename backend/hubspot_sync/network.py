"""Clients by their addresses, for bounds that each has to itself."""

from __future__ import annotations

import ipaddress


def network_of(address: str) -> str:
    """What one client has to itself: an IPv4 address, or the /64 of an IPv6 one; what is no address, as it is."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    # So a server that listens on both names a client of IPv4.
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip), 64), strict=False))
