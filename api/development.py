"""Whether a request to a server in development was meant for this machine.

A page of a stranger can make its own name resolve to 127.0.0.1 (DNS rebinding) and read what the server answers: the
name is then in the Host header. What development gives away, it gives under names that are this machine's.
"""

import ipaddress
import re

from fastapi import Request

from config.settings import Settings

HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:@/?#\[\]\\]+)(:[0-9]{1,5})?")
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104  # nosec B104 - compared, not bound


def is_development_at_home(request: Request, settings: Settings) -> bool:
    """Whether this is development, and the request names this machine or one of DEVELOPMENT_HOSTS."""
    return settings.is_development and is_own_host(request.headers.get("host", ""), settings)


def is_own_host(host: str, settings: Settings) -> bool:
    """Whether a Host header is localhost, a loopback address, the HOST that is bound, or configured."""
    parts = HOST.fullmatch(host)
    if parts is None:
        return False
    name = parts["name"].lower().strip("[]").removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if name in {configured.lower().removesuffix(".") for configured in settings.development_hosts}:
        return True
    return _is_loopback(name) or (name == settings.host.lower() and name not in ANY_ADDRESS)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
