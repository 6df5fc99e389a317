"""The page reader: the text of what is public, and a refusal in words for all that is not."""

from pathlib import Path
from typing import Any

import pytest
from fpdf import FPDF

from core.safe_fetch import Network
from services.tools import web_page
from services.tools.web_page import MAX_TEXT_CHARS, create_fetch_page
from tests.documents_for_tests import pdf_line
from tests.tls_server import Play, answer_with, send, tls_server

HTML = """<!doctype html><html><head><title>Congés</title><script>alert("non")</script></head>
<body><nav>Menu</nav><h1>Les congés</h1><p>Le congé parental dure <b>trente</b> jours.</p>
<table><tr><th>Ville</th><th>Jours</th></tr><tr><td>Brest</td><td>30</td></tr></table></body></html>"""


async def said_of(play: Play, path: str = "/page", *, network: Network | None = None) -> str:
    """What the model reads of an address."""
    async with tls_server(play) as server:
        tool = create_fetch_page(network or server.network())
        return str(await tool.ainvoke({"url": f"https://pictures.test:{server.port}{path}"}))


def pdf() -> bytes:
    document = FPDF()
    document.add_page()
    pdf_line(document, "Le congé parental dure trente jours.")
    return bytes(document.output())


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


async def test_a_page_is_read_without_its_markup():
    said = await said_of(answer_with(200, HTML.encode(), "text/html; charset=utf-8"))
    assert "Le congé parental dure trente jours." in said
    assert "Brest | 30" in said
    for markup in ("<", "alert", "script"):
        assert markup not in said


@pytest.mark.parametrize("content_type", ["text/plain", "text/markdown", "TEXT/PLAIN; charset=utf-8"])
async def test_plain_text_is_read_as_it_is(content_type):
    assert "Bonjour à tous." in await said_of(answer_with(200, "Bonjour à tous.\n".encode(), content_type))


async def test_a_table_is_read():
    said = await said_of(answer_with(200, b"ville,jours\nBrest,30\n", "text/csv"))
    assert "Brest" in said
    assert "30" in said


async def test_a_pdf_is_read():
    assert "congé parental dure trente jours" in await said_of(answer_with(200, pdf(), "application/pdf"))


async def test_a_long_text_is_cut_and_said_to_go_on(monkeypatch):
    text = "\n\n".join(f"Le paragraphe {number} dit quelque chose." for number in range(2000))
    said = await said_of(answer_with(200, text.encode(), "text/plain"))
    assert said.endswith("…\n(The page goes on.)")
    assert len(said) == MAX_TEXT_CHARS + len("…\n(The page goes on.)")
    assert said.startswith("Le paragraphe 0 dit quelque chose.")


async def test_a_text_within_the_limit_is_whole():
    said = await said_of(answer_with(200, b"Fin. " * 100, "text/plain"))
    assert said.count("Fin.") == 100
    assert "goes on" not in said


async def test_a_private_address_is_refused_and_not_connected_to():
    async with tls_server(answer_with(200, b"secret", "text/plain")) as server:
        tool = create_fetch_page(server.network(["10.0.0.1"]))
        said = await tool.ainvoke({"url": f"https://pictures.test:{server.port}/"})
    assert said == f"'https://pictures.test:{server.port}/' does not lead to a public address of the internet"
    assert server.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "file:///etc/passwd",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
        "https://localhost:8000/",
        "example.org",
        "",
    ],
)
async def test_addresses_that_are_not_public_pages_are_refused_by_the_tool_that_is_offered(url):
    said = str(await create_fetch_page().ainvoke({"url": url}))
    assert "cannot be fetched" in said or "public address" in said or "names a port" in said


async def test_a_redirect_is_told_with_its_address():
    said = await said_of(answer_with(301, b"", "text/html", Location="https://www.pictures.test/page"))
    assert "redirects to 'https://www.pictures.test/page'" in said
    assert "give the final address" in said


@pytest.mark.parametrize(
    ("play", "words"),
    [
        (answer_with(404, b"", "text/html"), "answered 404 instead of 200"),
        (answer_with(200, b"\x89PNG\r\n\x1a\n", "image/png"), "is 'image/png'; accepted: application/pdf"),
        (answer_with(200, b"PK", "application/zip"), "is 'application/zip'"),
        (answer_with(200, b"x"), "accepted: "),
        (answer_with(200, b"x", "text/html", Content_Encoding="gzip"), "answered compressed"),
        (send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\nx"), "broke off"),
        (send(b"SSH-2.0-OpenSSH\r\n"), "no valid HTTP answer"),
    ],
)
async def test_what_is_no_page_is_told(play, words):
    assert words in await said_of(play)


@pytest.mark.parametrize("length", ["", "20000"])
async def test_a_page_that_is_too_large_is_told(monkeypatch, length):
    monkeypatch.setattr(web_page, "MAX_BYTES", 10_000)
    play = answer_with(200, b"x" * 20_000, "text/plain", Content_Length=length)
    assert "is larger than 10000 bytes" in await said_of(play)


async def test_a_slow_page_is_given_up(monkeypatch):
    monkeypatch.setattr(web_page, "TIMEOUT_S", 0.2)
    play = send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n", b"x", pause_s=0.05, times=100)
    assert "took longer than 0.2 s" in await said_of(play)


async def test_a_pdf_that_cannot_be_read_is_told():
    said = await said_of(answer_with(200, b"%PDF-1.7\nnonsense", "application/pdf"))
    assert said.startswith("the page cannot be read: ")


async def test_what_was_fetched_does_not_stay_on_the_disk(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(web_page.tempfile, "tempdir", str(tmp_path))
    await said_of(answer_with(200, b"Bonjour.", "text/plain"))
    await said_of(answer_with(200, b"%PDF-1.7\nnonsense", "application/pdf"))
    assert is_empty(tmp_path)


def test_the_model_is_told_what_it_takes():
    tool: Any = create_fetch_page()
    assert (tool.name, list(tool.args)) == ("fetch_page", ["url"])
    assert "https://" in tool.args["url"]["description"]
