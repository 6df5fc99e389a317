"""Whatever form an image comes in, providers get a data URI of a real image, or the caller reads what is wrong."""

import base64
import tracemalloc

import pytest

from domain.errors import BadRequest, FetchRefused
from services.llm.images import IMAGE_TYPES, Image, image_as_data_uri, read_data_uri
from tests.tls_server import answer_with, tls_server

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
JPEG = b"\xff\xd8\xff\xe0" + bytes(50)


def data_uri(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (PNG, "image/png", "image/png"),
        (PNG, "IMAGE/PNG", "image/png"),
        (JPEG, "image/jpg", "image/jpeg"),
        (b"GIF89a;", "image/gif", "image/gif"),
        (b"RIFF\x04\0\0\0WEBP", "image/webp", "image/webp"),
    ],
)
async def test_a_data_uri_of_an_image_is_passed_on(content, kind, told):
    assert read_data_uri(data_uri(content, kind), max_bytes=1000) == Image(content, told)
    assert await image_as_data_uri(data_uri(content, kind), max_bytes=1000, timeout_s=30.0) == data_uri(content, told)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("data:image/png,abc", "not a base64 data URI"),
        ("data:image/png;charset=utf-8;base64,AAAA", "not a base64 data URI"),
        ("data:;base64,AAAA", "not a base64 data URI"),
        ("data:", "not a base64 data URI"),
        ("data:text/html;base64,AAAA", "text/html"),
        ("data:image/svg+xml;base64,AAAA", "svg"),
        ("data:image/png;base64,AAA", "not valid base64"),
        ("data:image/png;base64,AA\nAA", "not valid base64"),
        ("data:image/png;base64,AA-_", "not valid base64"),
        ("data:image/png;base64,AA%2B", "not valid base64"),
        ("data:image/png;base64,AAé=", "not valid base64"),
        ("data:image/png;base64,", "no known image"),
        (data_uri(b"<html>"), "no known image"),
        (data_uri(JPEG, "image/png"), "image/jpeg"),
        (data_uri(PNG + bytes(1000)), "larger than 1000 bytes"),
    ],
)
async def test_a_data_uri_of_anything_else_is_refused_by_its_beginning(value, words):
    with pytest.raises(BadRequest, match=words) as refused:
        await image_as_data_uri(value, max_bytes=1000, timeout_s=30.0)
    assert value[:40] in refused.value.message or repr(value[:40])[1:-1] in refused.value.message
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("size", [207, 208, 209])
async def test_the_size_allowed_is_that_of_the_image_whatever_the_padding(size):
    assert len(read_data_uri(data_uri(PNG[:8] + bytes(size - 8)), max_bytes=size).content) == size
    for extra in (1, 2, 3):
        with pytest.raises(BadRequest, match="larger"):
            read_data_uri(data_uri(PNG[:8] + bytes(size - 8)), max_bytes=size - extra)


async def test_what_is_far_too_large_is_not_even_decoded():
    huge = data_uri(PNG + bytes(8_000_000))
    tracemalloc.start()
    with pytest.raises(BadRequest, match="larger"):
        read_data_uri(huge, max_bytes=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


async def test_only_the_types_asked_for_are_taken():
    with pytest.raises(BadRequest, match="accepted: image/png"):
        read_data_uri(data_uri(JPEG, "image/jpeg"), max_bytes=1000, content_types=frozenset({"image/png"}))
    assert "image/svg+xml" not in IMAGE_TYPES


async def test_an_https_address_becomes_a_data_uri():
    async with tls_server(answer_with(200, PNG, "image/png")) as server:
        url = f"https://pictures.test:{server.port}/cat.png"
        assert await image_as_data_uri(url, max_bytes=1000, timeout_s=30.0, network=server.network()) == data_uri(PNG)


@pytest.mark.parametrize("value", ["http://pictures.test/cat.png", "cat.png", "", "https://127.0.0.1/cat.png"])
async def test_an_address_that_cannot_be_fetched_is_refused_with_the_way_out(value):
    with pytest.raises(FetchRefused) as refused:
        await image_as_data_uri(value, max_bytes=1000, timeout_s=30.0)
    assert isinstance(refused.value, BadRequest)
    assert repr(value) in refused.value.message
    assert "data:image/png;base64" in refused.value.message
