"""What every answer tells browsers: not to guess its type, not to frame it, not to run what it holds."""

import base64
import hashlib
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Header = tuple[bytes, bytes]

POLICY = b"content-security-policy"
NO_SNIFF: Header = (b"x-content-type-options", b"nosniff")
NO_REFERRER: Header = (b"referrer-policy", b"no-referrer")
NO_FRAMES: Header = (b"x-frame-options", b"DENY")
NOTHING_RUNS: Header = (POLICY, b"default-src 'none'; frame-ancestors 'none'")
ONLY_ENCRYPTED: Header = (b"strict-transport-security", b"max-age=31536000")
SECURITY_HEADERS: tuple[Header, ...] = (NO_SNIFF, NO_REFERRER, NO_FRAMES, NOTHING_RUNS)

PAGES = frozenset({"/docs", "/redoc", "/docs/oauth2-redirect"})
"""The documentation, whose scripts and styles come from this server alone."""
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def security_headers(*, is_development: bool) -> tuple[Header, ...]:
    """What is constant of every answer. In development a server is reached without encryption."""
    return SECURITY_HEADERS if is_development else (*SECURITY_HEADERS, ONLY_ENCRYPTED)


class PagePolicy:
    """Allows a page the scripts that are written in it, by their digests, and those of this server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started: Message | None = None

        async def send_with_policy(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = message
                return
            if started is not None:
                policy = (POLICY, _policy(message.get("body", b"")))
                await send({**started, "headers": [*started["headers"], policy]})
                started = None
            await send(message)

        await self._app(scope, receive, send_with_policy)


def _policy(page: bytes) -> bytes:
    digests = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in INLINE_SCRIPT.findall(page)]
    return PAGE_POLICY.format(scripts="".join(f" 'sha256-{digest}'" for digest in digests)).encode()
