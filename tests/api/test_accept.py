"""What a client would rather have, of what there is."""

import pytest

from api.accept import best_media_type

OFFERED = ["text/vnd.mermaid", "text/plain", "image/svg+xml"]
MERMAID, PLAIN, SVG = OFFERED
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
BROWSERS_IMAGE = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        ("", MERMAID),
        ("*/*", MERMAID),
        ("image/svg+xml", SVG),
        ("IMAGE/SVG+XML", SVG),
        ("image/*", SVG),
        ("text/*", MERMAID),
        ("text/plain", PLAIN),
        (BROWSER, MERMAID),
        (BROWSERS_IMAGE, SVG),
        ("text/vnd.mermaid;q=0.4, image/svg+xml;q=0.5", SVG),
        ("text/vnd.mermaid;q=0.5, image/svg+xml;q=0.5", MERMAID),
        ("image/svg+xml;q=0, */*;q=0.1", MERMAID),
        ("text/*;q=0, */*", SVG),
        ("image/svg+xml;charset=utf-8;q=1, */*;q=0.2", SVG),
        ("image/svg+xml;q=nan", SVG),
        ("image/svg+xml;q=loud", SVG),
        ("application/json", None),
        ("image/svg+xml;q=0", None),
        ("*/*;q=0", None),
        ("svg", None),
    ],
)
def test_the_heaviest_that_is_offered_is_sent(accept: str, best: str | None) -> None:
    assert best_media_type(accept, OFFERED) == best
