"""What kind of image some bytes are, by their first bytes and not by what anybody calls them."""

LONGEST_SIGNATURE = 12


def image_type(content: bytes) -> str | None:
    """The content type of a PNG, JPEG, GIF or WebP; `None` for anything else."""
    head = content[:LONGEST_SIGNATURE]
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def canonical_image_type(content_type: str) -> str:
    """`image/jpg` is not a registered type, and half the world sends it."""
    lowered = content_type.strip().lower()
    return "image/jpeg" if lowered in {"image/jpg", "image/pjpeg"} else lowered
