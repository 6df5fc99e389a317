"""Word and PowerPoint."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
from docx import Document
from docx.enum.style import WD_STYLE_TYPE
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from pptx import Presentation
from pptx.util import Inches

from services.rag.extraction import slides, word
from services.rag.extraction.contract import ExtractionLimits, Reading
from tests.documents_for_tests import passages_of, rewritten, shape_of


def read_word(document: Any, path: Path) -> Reading:
    document.save(str(path))
    return word.read(path, ExtractionLimits())


def test_a_word_document_keeps_its_order_headings_lists_and_tables(tmp_path: Path) -> None:
    document = Document()
    document.add_heading("Le rapport", 0)
    document.add_heading("Chapitre", 1)
    document.add_paragraph("Avant le tableau.")
    table = document.add_table(2, 2)
    for cell, text in zip(
        (c for row in table.rows for c in row.cells), ["Nom", "Ville", "Zoé", "Lyon\n69"], strict=True
    ):
        cell.text = text
    document.add_paragraph("puce une", style="List Bullet")
    document.add_paragraph("puce deux", style="List Bullet")
    document.add_paragraph("Entre.")
    for text in ("un", "deux"):
        document.add_paragraph(text, style="List Number")
    document.add_heading("Section", 2)
    document.add_paragraph("Fin.")
    reading = read_word(document, tmp_path / "a.docx")
    assert reading.title == "Le rapport"
    assert shape_of(list(reading.blocks)) == [
        ("heading1", "Le rapport"),
        ("heading2", "Chapitre"),
        ("paragraph", "Avant le tableau."),
        ("table", "Nom | Ville\nZoé | Lyon 69"),
        ("list", "- puce une\n- puce deux"),
        ("paragraph", "Entre."),
        ("list", "1. un\n2. deux"),
        ("heading3", "Section"),
        ("paragraph", "Fin."),
    ]


def test_headings_are_known_by_french_names_inheritance_and_outline_levels(tmp_path: Path) -> None:
    document = Document()
    document.styles.add_style("Titre 2", WD_STYLE_TYPE.PARAGRAPH)
    mine = document.styles.add_style("Mon titre", WD_STYLE_TYPE.PARAGRAPH)
    mine.base_style = document.styles["Heading 3"]
    document.add_paragraph("Français", style="Titre 2")
    document.add_paragraph("Hérité", style="Mon titre")
    paragraph = document.add_paragraph("Par niveau")
    paragraph._p.get_or_add_pPr().append(parse_xml(f'<w:outlineLvl {nsdecls("w")} w:val="0"/>'))
    toc = document.styles.add_style("TOC 1", WD_STYLE_TYPE.PARAGRAPH)
    document.add_paragraph("Français\t3", style=toc)
    assert shape_of(list(read_word(document, tmp_path / "a.docx").blocks)) == [
        ("heading2", "Français"),
        ("heading3", "Hérité"),
        ("heading1", "Par niveau"),
    ]


def test_deleted_text_is_left_out_and_text_boxes_are_read_once(tmp_path: Path) -> None:
    w, mc = nsdecls("w"), 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    box = "<w:txbxContent><w:p><w:r><w:t>Encadré</w:t></w:r></w:p></w:txbxContent>"
    document = Document()
    document.element.body.insert(
        0,
        parse_xml(
            f"<w:p {w} {mc}><w:r><w:t>Gardé</w:t><w:noBreakHyphen/><w:t>là</w:t></w:r>"
            "<w:del><w:r><w:delText>supprimé</w:delText></w:r></w:del>"
            "<w:moveFrom><w:r><w:t>déplacé</w:t></w:r></w:moveFrom><w:ins><w:r><w:t> ajouté</w:t></w:r></w:ins>"
            f"<w:r><mc:AlternateContent><mc:Choice Requires='wps'>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>"
            "</mc:AlternateContent></w:r></w:p>"
        ),
    )
    document.element.body.insert(
        1, parse_xml(f"<w:sdt {w}><w:sdtContent><w:p><w:r><w:t>Contrôle</w:t></w:r></w:p></w:sdtContent></w:sdt>")
    )
    assert shape_of(list(read_word(document, tmp_path / "a.docx").blocks)) == [
        ("paragraph", "Gardé-là ajouté"),
        ("paragraph", "Encadré"),
        ("paragraph", "Contrôle"),
    ]


def test_footnotes_follow_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    document = Document()
    document.add_paragraph("Texte.")
    document.save(str(path))
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    body = "<w:footnote w:id='1'><w:p><w:r><w:t>La note.</w:t></w:r></w:p></w:footnote>"
    note = f"<w:footnotes {nsdecls('w')}>{body}</w:footnotes>"
    with zipfile.ZipFile(path) as archive:
        rels = archive.read("word/_rels/document.xml.rels")
        types = archive.read("[Content_Types].xml")
    link = f'<Relationship Id="rId99" Type="{kind}" Target="footnotes.xml"/></Relationships>'.encode()
    media = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"
    part = f'<Override PartName="/word/footnotes.xml" ContentType="{media}"/></Types>'.encode()
    rewritten(
        path,
        {
            "word/_rels/document.xml.rels": rels.replace(b"</Relationships>", link),
            "[Content_Types].xml": types.replace(b"</Types>", part),
            "word/footnotes.xml": note.encode(),
        },
    )
    assert [block.text for block in word.read(path, ExtractionLimits()).blocks] == ["Texte.", "La note."]


def test_a_table_of_one_column_is_a_frame_around_paragraphs(tmp_path: Path) -> None:
    document = Document()
    document.add_table(1, 1).cell(0, 0).text = "Encadré"
    assert shape_of(list(read_word(document, tmp_path / "a.docx").blocks)) == [("paragraph", "Encadré")]


@pytest.fixture
def presentation(tmp_path: Path) -> Path:
    presentation = Presentation()
    first = presentation.slides.add_slide(presentation.slide_layouts[1])
    first.shapes.title.text = "Diapo un"
    first.placeholders[1].text = "point un\npoint deux"
    first.placeholders[1].text_frame.paragraphs[1].level = 1
    first.notes_slide.notes_text_frame.text = "Dire bonjour."
    second = presentation.slides.add_slide(presentation.slide_layouts[6])
    second.shapes.add_textbox(0, 0, Inches(3), Inches(1)).text_frame.text = "Sans titre"
    group = second.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, Inches(3), Inches(1)).text_frame.text = "Dans un groupe"
    table = second.shapes.add_table(2, 2, 0, 0, Inches(3), Inches(1)).table
    for cell, text in zip(table.iter_cells(), ["Nom", "Ville", "Zoé", "Lyon"], strict=True):
        cell.text = text
    third = presentation.slides.add_slide(presentation.slide_layouts[6])
    third.shapes.add_textbox(0, 0, Inches(3), Inches(1)).text_frame.text = "long " * 50
    presentation.slides.add_slide(presentation.slide_layouts[6])
    presentation.save(str(tmp_path / "a.pptx"))
    return tmp_path / "a.pptx"


def test_each_slide_is_a_page_under_its_title(presentation: Path) -> None:
    reading = slides.read(presentation, ExtractionLimits())
    blocks = list(reading.blocks)
    assert (reading.title, reading.pages_total) == ("Diapo un", 4)
    assert shape_of(blocks) == [
        ("heading1", "Diapo un"),
        ("list", "- point un\n  - point deux"),
        ("paragraph", "Dire bonjour."),
        ("heading1", "Sans titre"),
        ("paragraph", "Dans un groupe"),
        ("table", "Nom | Ville\nZoé | Lyon"),
        ("heading1", "Slide 3"),
        ("paragraph", ("long " * 50).strip()),
    ]
    assert [block.page for block in blocks] == [1, 1, 1, 2, 2, 2, 3, 3]


async def test_passages_of_slides_carry_their_page_and_title(presentation: Path) -> None:
    passages = await passages_of(presentation)
    assert [(passage.page, passage.headings) for passage in passages] == [
        (1, ("Diapo un",)),
        (2, ("Sans titre",)),
        (3, ("Slide 3",)),
    ]
