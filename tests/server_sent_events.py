"""Reads server-sent events strictly: what the contract does not allow fails the test."""

import json
from typing import Any

COMMENT = ": ping"


def parse_stream(body: bytes) -> list[dict[str, Any]]:
    """The events of a whole native stream, `done` last and once; comments are passed over, anything else fails."""
    text = body.decode("utf-8")
    assert text.endswith("\n\n")
    events = []
    for block in text[:-2].split("\n\n"):
        if block == COMMENT:
            continue
        assert "\n" not in block, block
        assert block.startswith("data: {"), block
        events.append(json.loads(block[6:]))
    assert [event["done"] for event in events] == [False] * (len(events) - 1) + [True]
    return events


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["content"] for event in events)


def typed_events(body: str) -> list[tuple[str, Any]]:
    """The events of a stream that names each: `(kind, content)`, comments passed over."""
    blocks = [block for block in body.removesuffix("\n\n").split("\n\n") if block != COMMENT]
    found = []
    for block in blocks:
        kind, content = block.split("\n")
        assert kind.startswith("event: "), block
        assert content.startswith("data: "), block
        found.append((kind[7:], json.loads(content[6:])))
    return found
