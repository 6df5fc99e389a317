"""Images that callers send: checked, and turned into the one form that providers are given, the data URI."""

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass

from core.image_signature import canonical_image_type, image_type
from core.safe_fetch import PUBLIC_INTERNET, Network, fetch_public
from domain.errors import BadRequest, FetchRefused

IMAGE_TYPES = frozenset({"image/gif", "image/jpeg", "image/png", "image/webp"})
DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,", re.IGNORECASE | re.ASCII)
SHOWN_CHARS = 48
WAY_OUT = "send it as 'data:image/png;base64,…' or as an https:// address of the image itself"


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose bytes are of the type they are said to be."""

    content: bytes
    content_type: str

    @property
    def data_uri(self) -> str:
        return f"data:{self.content_type};base64,{base64.b64encode(self.content).decode('ascii')}"


async def image_as_data_uri(
    value: str,
    *,
    max_bytes: int,
    timeout_s: float,
    content_types: frozenset[str] = IMAGE_TYPES,
    network: Network = PUBLIC_INTERNET,
) -> str:
    """The image of a data URI or of an https address, as a data URI; raises `BadRequest` when it is none.

    `timeout_s` and `max_bytes` (of the image, not of its base64) hold for the fetch of an address.
    """
    if not _is_data_uri(value):
        try:
            fetched = await fetch_public(
                value, max_bytes=max_bytes, timeout_s=timeout_s, content_types=content_types, network=network
            )
        except FetchRefused as refused:
            raise FetchRefused(f"the image {refused.message}; {WAY_OUT}") from refused
        image = Image(fetched.content, fetched.content_type)
        return await asyncio.to_thread(lambda: image.data_uri)
    # Megabytes of base64 take milliseconds: in a thread, so that nobody's stream waits for them.
    return await asyncio.to_thread(
        lambda: read_data_uri(value, max_bytes=max_bytes, content_types=content_types).data_uri
    )


def read_data_uri(value: str, *, max_bytes: int, content_types: frozenset[str] = IMAGE_TYPES) -> Image:
    """The image inside a data URI; raises `BadRequest` when type, size, base64 or bytes are not what they should be."""
    shown = value if len(value) <= SHOWN_CHARS else value[: SHOWN_CHARS - 1] + "…"
    head = DATA_URI.match(value)
    if head is None:
        raise BadRequest(f"the image {shown!r} is not a base64 data URI: {WAY_OUT}")
    content_type = canonical_image_type(head[1])
    accepted = ", ".join(sorted(content_types))
    if content_type not in content_types:
        raise BadRequest(f"the image {shown!r} is {content_type!r}; accepted: {accepted}")
    # Four characters hold three bytes: what is too large is not even decoded.
    if (len(value) - head.end()) * 3 // 4 > max_bytes + 2:
        raise BadRequest(_too_large(shown, max_bytes))
    try:
        content = base64.b64decode(value[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(
            f"the image {shown!r} is not valid base64 (standard alphabet, padded, without spaces or line ends)"
        ) from error
    if len(content) > max_bytes:
        raise BadRequest(_too_large(shown, max_bytes))
    if (found := image_type(content)) != content_type:
        raise BadRequest(
            f"the image {shown!r} is called {content_type!r}, but its bytes are {found or 'no known image'!r}; "
            f"accepted: {accepted}"
        )
    return Image(content, content_type)


def _is_data_uri(value: str) -> bool:
    return value[:5].lower() == "data:"


def _too_large(shown: str, max_bytes: int) -> str:
    return f"the image {shown!r} is larger than {max_bytes} bytes: send a smaller one"
