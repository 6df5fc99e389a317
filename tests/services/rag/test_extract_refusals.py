"""Files that cannot be read: each ends with a reason that names what is wrong and the way out."""

import zipfile
import zlib
from pathlib import Path

import pytest
from docx import Document
from fpdf import FPDF
from fpdf.enums import AccessPermission
from pptx import Presentation

from services.rag.extraction import archive
from services.rag.extraction.child import NO_TEXT, READERS
from services.rag.extraction.extractor import SUPPORTED_SUFFIXES, ExtractionLimits
from tests.documents_for_tests import passages_of, pdf_line, reason_of, rewritten, write_long_pdf

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)


def file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def office(path: Path) -> Path:
    if path.suffix == ".docx":
        document = Document()
        document.add_paragraph("Texte.")
    else:
        document = Presentation()
        document.slides.add_slide(document.slide_layouts[0]).shapes.title.text = "Titre"
    document.save(str(path))
    return path


def bomb_pdf(path: Path, inflated_bytes: int) -> Path:
    """A PDF whose one page is a stream that inflates a thousandfold."""
    packer = zlib.compressobj(9)
    piece = b"BT /F1 12 Tf 10 10 Td (x) Tj ET\n" * 32_768
    stream = b"".join(packer.compress(piece) for _ in range(inflated_bytes // len(piece))) + packer.flush()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body = b"%PDF-1.4\n" + b"".join(b"%d 0 obj%s endobj\n" % (n, text) for n, text in enumerate(objects, 1))
    return file(path, body + b"trailer<</Root 1 0 R/Size 6>>\n%%EOF\n")


def test_every_supported_suffix_has_a_reader() -> None:
    assert READERS.keys() == SUPPORTED_SUFFIXES


@pytest.mark.parametrize("suffix", sorted(SUPPORTED_SUFFIXES))
async def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    assert "is empty" in await reason_of(file(tmp_path / f"a.{suffix}", b""))


@pytest.mark.parametrize("suffix", ["txt", "md", "csv", "html"])
async def test_a_file_of_white_space_holds_no_text(tmp_path: Path, suffix: str) -> None:
    assert await reason_of(file(tmp_path / f"a.{suffix}", b" \n \n")) == NO_TEXT


async def test_office_files_without_text_hold_none(tmp_path: Path) -> None:
    Document().save(str(tmp_path / "a.docx"))
    Presentation().save(str(tmp_path / "a.pptx"))
    for name in ("a.docx", "a.pptx"):
        assert await reason_of(tmp_path / name) == NO_TEXT


async def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    assert await reason_of(file(tmp_path / "a.EXE", b"x")) == (
        "a .exe file cannot be read: send one of csv, docx, htm, html, markdown, md, pdf, pptx, txt"
    )
    assert "has no suffix" in await reason_of(file(tmp_path / "README", b"x"))


async def test_the_name_given_tells_the_format_not_the_path(tmp_path: Path) -> None:
    path = file(tmp_path / "0123456789", b"Bonjour.")
    assert "holds no" not in await reason_of(path, name="x.pdf")
    assert "looks like plain text" in await reason_of(path, name="Rapport.PDF")


async def test_a_file_that_is_not_there_is_our_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await reason_of(tmp_path / "a.txt")


async def test_a_scan_is_told_that_there_is_no_text_recognition(tmp_path: Path) -> None:
    pdf = FPDF()
    pdf.add_page()
    pdf.rect(10, 10, 50, 50, style="F")
    pdf.output(str(tmp_path / "a.pdf"))
    reason = await reason_of(tmp_path / "a.pdf")
    assert "images only" in reason
    assert "OCR" in reason


async def test_a_pdf_under_a_password_is_refused(tmp_path: Path) -> None:
    pdf = FPDF()
    pdf.add_page()
    pdf_line(pdf, "Secret")
    pdf.set_encryption(owner_password="o", user_password="u", permissions=AccessPermission.none())
    pdf.output(str(tmp_path / "a.pdf"))
    assert "password" in await reason_of(tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("stream", "word"),
    [("EncryptedPackage", "password"), ("WordDocument", "Word before 2007"), ("Other", "old Office")],
)
async def test_old_and_encrypted_office_files_are_told_apart(tmp_path: Path, stream: str, word: str) -> None:
    assert word in await reason_of(file(tmp_path / "a.docx", OLE + stream.encode("utf-16-le") + bytes(512)))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
async def test_a_pdf_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    write_long_pdf(tmp_path / "a.pdf", 5)
    content = (tmp_path / "a.pdf").read_bytes()
    assert "cut short" in await reason_of(file(tmp_path / "b.pdf", content[: int(len(content) * share)]))


async def test_a_damaged_pdf_is_refused(tmp_path: Path) -> None:
    assert "damaged" in await reason_of(file(tmp_path / "a.pdf", b"%PDF-1.7\n" + bytes(range(256)) * 40 + b"%%EOF"))


@pytest.mark.parametrize("suffix", ["docx", "pptx"])
async def test_damaged_office_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = office(tmp_path / f"a.{suffix}")
    content = path.read_bytes()
    assert "damaged" in await reason_of(file(tmp_path / f"b.{suffix}", content[: len(content) // 2]))
    middle = bytearray(content)
    for at in range(2_000, len(middle) - 2_000, 97):
        middle[at] ^= 0xFF
    assert "damaged" in await reason_of(file(tmp_path / f"c.{suffix}", bytes(middle)))
    main = "word/document.xml" if suffix == "docx" else "ppt/presentation.xml"
    assert "damaged" in await reason_of(rewritten(office(tmp_path / f"d.{suffix}"), {main: b"<a><b></a>"}))
    empty = {main: b"<x/>", "[Content_Types].xml": b"<Types/>"}
    assert "damaged" in await reason_of(rewritten(office(tmp_path / f"e.{suffix}"), empty))


@pytest.mark.parametrize(
    ("suffix", "content", "looks_like"),
    [
        ("pdf", b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG image"),
        ("pdf", b"<html><body>404</body></html>", "a web page"),
        ("docx", b"%PDF-1.7\n%%EOF", "a PDF"),
        ("txt", b"%PDF-1.7\n%%EOF", "a PDF"),
        ("txt", b"\xff\xd8\xff\xe0" + bytes(99), "a JPEG image"),
        ("md", bytes(range(256)) * 4, "binary content"),
        ("csv", b"<!DOCTYPE html><html></html>", "a web page"),
        ("html", b"\x1f\x8b\x08" + bytes(99), "a gzip archive"),
        ("txt", b"{\\rtf1 bonjour}", "an RTF document"),
        ("pptx", b"GIF89a" + bytes(99), "a GIF image"),
    ],
)
async def test_content_that_is_not_what_the_name_says_is_named(
    tmp_path: Path, suffix: str, content: bytes, looks_like: str
) -> None:
    assert f"looks like {looks_like}" in await reason_of(file(tmp_path / f"a.{suffix}", content))


async def test_one_office_format_named_as_another_is_named(tmp_path: Path) -> None:
    path = office(tmp_path / "a.docx")
    assert "a Word document" in await reason_of(path, name="a.pptx")
    assert "a Word document" in await reason_of(path, name="a.txt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as other:
        other.writestr("a.txt", "x")
    assert "a ZIP archive" in await reason_of(tmp_path / "a.zip", name="a.docx")


async def test_text_that_begins_like_a_format_is_text(tmp_path: Path) -> None:
    for start in (b"BMW", b"MZ", b"GIF89a", b"RIFF"):
        assert await passages_of(file(tmp_path / "a.txt", start + b" et la suite du texte."))


async def test_too_many_pages_are_named_with_what_is_allowed(tmp_path: Path) -> None:
    write_long_pdf(tmp_path / "a.pdf", 4)
    assert "4 pages, of 3 allowed" in await reason_of(tmp_path / "a.pdf", ExtractionLimits(max_pages=3))
    presentation = Presentation()
    for _ in range(3):
        presentation.slides.add_slide(presentation.slide_layouts[6])
    presentation.save(str(tmp_path / "a.pptx"))
    assert "3 slides, of 2 allowed" in await reason_of(tmp_path / "a.pptx", ExtractionLimits(max_pages=2))


async def test_too_much_text_is_refused_in_every_format(tmp_path: Path) -> None:
    limits = ExtractionLimits(max_text_chars=5_000)
    write_long_pdf(tmp_path / "a.pdf", 5)
    document = Document()
    document.add_paragraph("mot " * 2_000)
    document.save(str(tmp_path / "a.docx"))
    for suffix in ("txt", "html", "md", "csv"):
        file(tmp_path / f"a.{suffix}", b"mot " * 2_000)
    for suffix in ("pdf", "docx", "txt", "html", "md", "csv"):
        assert "more than the 5,000 characters" in await reason_of(tmp_path / f"a.{suffix}", limits), suffix
    assert "more than the 5,000 characters" in await reason_of(file(tmp_path / "b.txt", b"mot " * 9_000), limits)


@pytest.mark.parametrize("suffix", ["docx", "pptx"])
async def test_archives_that_unpack_to_too_much_are_refused_before_they_are_opened(tmp_path: Path, suffix: str) -> None:
    ratio = rewritten(office(tmp_path / f"a.{suffix}"), {"media/a.bin": bytes(20 << 20)})
    assert "unpacks to too much (an entry inflates more than 200 times)" in await reason_of(ratio)
    many = office(tmp_path / f"b.{suffix}")
    with zipfile.ZipFile(many, "a") as zipped:
        for n in range(archive.MAX_ENTRIES):
            zipped.writestr(f"x{n}", b"")
    assert "entries, of 20,000 allowed" in await reason_of(many)
    declared = rewritten(office(tmp_path / f"c.{suffix}"), {})
    content = bytearray(declared.read_bytes())
    at = content.find(b"PK\x01\x02")  # The first entry of the directory claims four gigabytes.
    content[at + 24 : at + 28] = b"\xf0\xff\xff\xff"
    assert "unpacks to too much" in await reason_of(file(declared, bytes(content)))


async def test_an_entry_that_is_larger_than_it_declares_is_refused(tmp_path: Path) -> None:
    path = rewritten(office(tmp_path / "a.docx"), {"word/document.xml": b"<a>" + b"x" * 300_000 + b"</a>"})
    content = path.read_bytes()
    lying = content.replace((300_007).to_bytes(4, "little"), (1_000).to_bytes(4, "little"))
    assert lying != content
    assert "damaged" in await reason_of(file(tmp_path / "b.docx", lying))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
async def test_xml_that_declares_entities_is_refused(tmp_path: Path, encoding: str) -> None:
    levels = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    laughs = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">{levels}]><x>&a9;</x>'.encode(encoding)
    for suffix, name in (
        ("docx", "word/document.xml"),
        ("docx", "docProps/core.xml"),
        ("pptx", "ppt/presentation.xml"),
    ):
        path = rewritten(office(tmp_path / f"a.{suffix}"), {name: laughs})
        assert "declares XML entities" in await reason_of(path), name


async def test_xml_nested_too_deep_is_refused(tmp_path: Path) -> None:
    deep = b"<w:p>" * 100_000
    name = "word/document.xml"
    with zipfile.ZipFile(office(tmp_path / "a.docx")) as zipped:
        whole = zipped.read(name)
    path = rewritten(tmp_path / "a.docx", {name: whole.replace(b"<w:body>", b"<w:body>" + deep)})
    assert "damaged" in await reason_of(path)


@pytest.mark.parametrize(
    ("suffix", "opening", "closing"),
    [
        ("html", "<div>", "</div>"),
        ("html", "<div>", ""),
        ("html", "<DIV class=a>x", ""),
        ("html", "<ul><li>x", ""),
        ("html", "<blockquote><p>", "</blockquote>"),
        ("html", "<table><tr><td>", ""),
        ("html", "<div></span></p>", ""),
        ("html", "<my-element>", ""),
        ("md", "[", "]"),
        ("md", "![", "](a)"),
        ("md", "[a](", ")"),
    ],
)
async def test_what_is_nested_100_000_deep_is_refused_at_once_and_by_name(
    tmp_path: Path, suffix: str, opening: str, closing: str
) -> None:
    path = file(tmp_path / f"a.{suffix}", f"# a\n\n{opening * 100_000}au fond{closing * 100_000}".encode())
    assert "nested deeper than the" in await reason_of(path, ExtractionLimits(timeout_s=10))


async def test_a_comment_that_is_opened_again_and_again_is_read(tmp_path: Path) -> None:
    path = file(tmp_path / "a.md", b"<!-- seen by no reader --> avant\n\n" + b"<!--" * 100_000)
    said = "".join(passage.text for passage in await passages_of(path, ExtractionLimits(timeout_s=10)))
    assert "avant" in said
    assert "seen by" not in said


async def test_a_pdf_bomb_needs_more_memory_than_allowed(tmp_path: Path) -> None:
    path = bomb_pdf(tmp_path / "a.pdf", 400 << 20)
    assert path.stat().st_size < 4 << 20
    reason = await reason_of(path, ExtractionLimits(memory_bytes=150_000_000))
    assert reason.startswith("reading this document needs more memory than the 150 MB allowed")


@pytest.mark.parametrize("suffix", ["html", "txt", "csv", "md"])
async def test_a_text_that_takes_too_much_memory_is_refused(tmp_path: Path, suffix: str) -> None:
    path = file(tmp_path / f"a.{suffix}", b"<p>a;b\n" * 2_000_000)
    assert "more memory than the 40 MB allowed" in await reason_of(path, ExtractionLimits(memory_bytes=40_000_000))
