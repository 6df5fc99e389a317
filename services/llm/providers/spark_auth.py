"""iFlytek Spark: who asks, at which address, and the signature that says so."""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from email.utils import formatdate
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlencode, urlsplit

from pydantic import SecretStr

from domain.errors import ConfigurationError

TEXT_BASE_URL = "wss://spark-api.xf-yun.com"
VISION_BASE_URL = "wss://spark-api.cn-huabei-1.xf-yun.com"
DEFAULT_PORTS = {"wss": 443, "ws": 80}

SPARK_PROVIDERS = ("spark", "spark-http")
"""Both take the same credentials, the caller's too: the first speaks WebSocket, the second serves X1 over HTTP."""

NEEDED = (
    "the settings SPARK_APP_ID, SPARK_API_SECRET and SPARK_API_KEY, or the headers X_APP_ID, X_API_SECRET and X_API_KEY"
)


@dataclass(frozen=True, slots=True)
class SparkCredentials:
    """What iFlytek's console gives for an application; the caller's own, or the server's."""

    app_id: str
    api_secret: SecretStr
    api_key: SecretStr


@dataclass(frozen=True, slots=True)
class SparkRoute:
    """Where a question goes. `domain` is what the frame says; `shown_domain` and `version` are told to the caller."""

    path: str
    domain: str
    version: str | None
    shown_domain: str
    takes_system: bool = False
    takes_image: bool = False


DEFAULT_VERSION = "v1.1"
ROUTES_BY_VERSION = {
    # The vendor renamed this domain from `general` to `lite`; callers of `version` know it by its first name.
    "v1.1": SparkRoute("/v1.1/chat", "lite", "v1.1", "general"),
    "v2.1": SparkRoute("/v2.1/chat", "generalv2", "v2.1", "generalv2"),
    "v3.1": SparkRoute("/v3.1/chat", "generalv3", "v3.1", "generalv3"),
}
ROUTES_BY_NAME = {
    "lite": SparkRoute("/v1.1/chat", "lite", "v1.1", "lite"),
    "generalv3": SparkRoute("/v3.1/chat", "generalv3", "v3.1", "generalv3"),
    "pro-128k": SparkRoute("/chat/pro-128k", "pro-128k", None, "pro-128k"),
    "generalv3.5": SparkRoute("/v3.5/chat", "generalv3.5", "v3.5", "generalv3.5", takes_system=True),
    "max-32k": SparkRoute("/chat/max-32k", "max-32k", None, "max-32k", takes_system=True),
    "4.0Ultra": SparkRoute("/v4.0/chat", "4.0Ultra", "v4.0", "4.0Ultra", takes_system=True),
    # `general` bills 273 tokens an image, `imagev3` as many as it finds useful.
    "vision": SparkRoute("/v2.1/image", "general", "v2.1", "general", takes_image=True),
    "imagev3": SparkRoute("/v2.1/image", "imagev3", "v2.1", "imagev3", takes_image=True),
}
CHOSEN_BY_VERSION = "spark-api"
"""The name whose path and domain the parameter `spark_version` chooses."""


def route_of(wire_name: str, version: Any) -> SparkRoute | None:
    """The route of a catalogue name; `None` when the WebSocket serves no such name (`x1` is HTTP only)."""
    if wire_name != CHOSEN_BY_VERSION:
        return ROUTES_BY_NAME.get(wire_name)
    known = isinstance(version, str) and version in ROUTES_BY_VERSION
    return ROUTES_BY_VERSION[version if known else DEFAULT_VERSION]


def origin_of(setting: str, base_url: str) -> str:
    """Scheme, host and port of a base URL, as they are signed; raises `ConfigurationError` naming the setting."""
    problem = ConfigurationError(
        f"{setting} must be an address like {TEXT_BASE_URL}, without a path (ws:// only on this machine)"
    )
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise problem from None
    has_more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme not in DEFAULT_PORTS or not host or has_more:
        raise problem
    if parts.scheme == "ws" and not _is_loopback(host):
        # The signature travels in the URL: unencrypted, anybody on the way could ask with it.
        raise problem
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + (f":{port}" if port and port != DEFAULT_PORTS[parts.scheme] else "")


def signed_url(origin: str, path: str, credentials: SparkCredentials, date: str) -> str:
    """The address of one handshake, good for 300 s around `date` (RFC 1123, GMT)."""
    host = urlsplit(origin).netloc
    query = {"authorization": authorization(host, path, credentials, date), "date": date, "host": host}
    return f"{origin}{path}?{urlencode(query)}"


def authorization(host: str, path: str, credentials: SparkCredentials, date: str) -> str:
    """The signature of host, date and request line, wrapped as the vendor wants it."""
    signed = f"host: {host}\ndate: {date}\nGET {path} HTTP/1.1"
    secret = credentials.api_secret.get_secret_value().encode()
    signature = base64.b64encode(hmac.digest(secret, signed.encode(), hashlib.sha256)).decode("ascii")
    origin = (
        f'api_key="{credentials.api_key.get_secret_value()}", algorithm="hmac-sha256", '
        f'headers="host date request-line", signature="{signature}"'
    )
    return base64.b64encode(origin.encode()).decode("ascii")


def http_date(now_s: float) -> str:
    """A time as the vendor wants it in the signature."""
    return formatdate(now_s, usegmt=True)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
