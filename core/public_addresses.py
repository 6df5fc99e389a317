"""Which IP addresses belong to the public internet, and may be connected to on a caller's word."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # "this host": Linux connects 0.0.0.0 to itself
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT, and a cloud's metadata (100.100.100.200)
            "127.0.0.0/8",
            "168.63.129.16/32",  # a cloud's own services, on an address that looks public
            "169.254.0.0/16",  # link-local: most clouds' metadata
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",  # reserved, and the broadcast address
        ),
    )
)
"""IANA's registry for IPv4 (https://www.iana.org/assignments/iana-ipv4-special-registry), plus multicast.

Written out because `ipaddress.is_global` differs between the Pythons we serve (corrected in 3.11.10 and 3.12.4).
"""

GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
"""All that is given out on the internet. Outside it lie loopback, private, link-local, multicast, and every spelling of
an IPv4 address but two: mapped (::ffff:0:0/96), compatible (::/96) and NAT64 (64:ff9b::/96)."""

NOT_PUBLIC_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols' own: Teredo wraps IPv4 addresses
            "2001:db8::/32",
            "2002::/16",  # 6to4 wraps IPv4 addresses
            "2620:4f:8000::/48",
            "3fff::/20",
        ),
    )
)
"""IANA's registry for IPv6 (https://www.iana.org/assignments/iana-ipv6-special-registry), inside 2000::/3."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address is somebody's on the public internet; `False` for whatever is special in any way."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_V4)
    if address.scope_id is not None or address not in GLOBAL_UNICAST_V6:
        return False
    return not any(address in network for network in NOT_PUBLIC_V6)
