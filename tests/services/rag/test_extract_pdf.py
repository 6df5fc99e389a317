from pathlib import Path

import pypdfium2 as pdfium
from fpdf import FPDF

from domain.documents import Block
from services.rag.extraction import pdf as reader
from services.rag.extraction.contract import ExtractionLimits
from tests.documents_for_tests import Report, passages_of, pdf_line, shape_of, write_long_pdf

PARAGRAPH = "Le contrat est signé par les deux parties, puis envoyé au service qui le garde pendant dix ans. "


def read(pdf: FPDF, path: Path) -> list[Block]:
    pdf.output(str(path))
    return list(reader.read(path, ExtractionLimits()).blocks)


def page_of(*, kind: type[FPDF] = FPDF) -> FPDF:
    pdf = kind()
    pdf.add_page()
    pdf.set_font("Helvetica", size=11)
    return pdf


def prose(pdf: FPDF, text: str, width: float = 0) -> None:
    pdf.set_font("Helvetica", size=11)
    pdf.multi_cell(width, 6, text, new_x="LMARGIN", new_y="NEXT")


def test_lines_become_paragraphs_and_larger_lines_headings(tmp_path: Path) -> None:
    pdf = page_of()
    pdf_line(pdf, "Le grand rapport de l'année", size=22)
    pdf.ln(4)
    pdf_line(pdf, "Première partie", size=14, style="B")
    for text in (PARAGRAPH * 3, PARAGRAPH * 2):
        prose(pdf, text)
        pdf.ln(4)
    pdf_line(pdf, "En gras", style="B")
    prose(pdf, PARAGRAPH)
    assert shape_of(read(pdf, tmp_path / "a.pdf")) == [
        ("heading1", "Le grand rapport de l'année"),
        ("heading3", "Première partie"),
        ("paragraph", (PARAGRAPH * 3).strip()),
        ("paragraph", (PARAGRAPH * 2).strip()),
        ("heading4", "En gras"),
        ("paragraph", PARAGRAPH.strip()),
    ]


def test_the_outline_says_the_levels(tmp_path: Path) -> None:
    pdf = page_of()
    for title, level in (("1. Contexte", 0), ("1.1 Les élèves", 1), ("2. Suite", 0)):
        pdf.start_section(title, level=level)
        pdf_line(pdf, title)
        pdf.ln(3)
        prose(pdf, PARAGRAPH * 2)
        pdf.ln(3)
    found = shape_of(read(pdf, tmp_path / "a.pdf"))
    assert [block for block in found if block[0] != "paragraph"] == [
        ("heading1", "1. Contexte"),
        ("heading2", "1.1 Les élèves"),
        ("heading1", "2. Suite"),
    ]


def test_words_cut_at_line_ends_are_joined_and_hyphens_of_their_own_kept(tmp_path: Path) -> None:
    pdf = page_of()
    for line in ("La ligne est cou-", "pée en deux, peut-", "être trois, par un sous-", "marin, c'est-à-", "dire ici."):
        pdf_line(pdf, line)
    assert [block.text for block in read(pdf, tmp_path / "a.pdf")] == [
        "La ligne est coupée en deux, peut-être trois, par un sous-marin, c'est-à-dire ici."
    ]


def test_repeated_headers_footers_and_page_numbers_go_and_chapter_titles_stay(tmp_path: Path) -> None:
    pdf = Report()
    for number in range(1, 7):
        pdf.add_page()
        pdf_line(pdf, f"Chapitre {number}", size=16)
        prose(pdf, f"Texte numéro {number} du rapport. " + PARAGRAPH)
    found = shape_of(read(pdf, tmp_path / "a.pdf"))
    text = "\n".join(text for _, text in found)
    assert "Rapport annuel" not in text
    assert "sur 6" not in text
    assert [text for kind, text in found if kind.startswith("heading")] == [f"Chapitre {n}" for n in range(1, 7)]


def test_a_header_that_changes_with_the_chapter_goes_by_its_page_number(tmp_path: Path) -> None:
    pdf = FPDF()
    for number in range(1, 7):
        pdf.add_page()
        pdf_line(pdf, f"Chapitre {'ABC'[(number - 1) // 2]} : les contrats   {number + 10}")
        prose(pdf, f"Texte numéro {number} du rapport. " + PARAGRAPH * number)
    assert "les contrats" not in "\n".join(block.text for block in read(pdf, tmp_path / "a.pdf"))


def test_lines_of_a_table_of_contents_are_no_headings(tmp_path: Path) -> None:
    pdf = page_of()
    for number in range(1, 5):
        pdf_line(pdf, f"Chapitre {number} . . . . . . . . . . . . {number}", style="B", size=14)
    pdf.ln(5)
    prose(pdf, PARAGRAPH * 5)
    kinds = [(block.kind, len(block.text.split("\n"))) for block in read(pdf, tmp_path / "a.pdf")]
    assert kinds == [("list", 4), ("paragraph", 1)]


def test_what_only_looks_like_furniture_stays(tmp_path: Path) -> None:
    pdf = FPDF()
    for _ in range(4):
        pdf.add_page()
        pdf_line(pdf, "Toujours la même ligne")
    assert len(read(pdf, tmp_path / "a.pdf")) == 4
    alone = page_of()
    pdf_line(alone, "2024")
    prose(alone, PARAGRAPH)
    assert read(alone, tmp_path / "b.pdf")[0].text.startswith("2024")


def test_a_paragraph_goes_on_over_the_page(tmp_path: Path) -> None:
    pdf = page_of()
    prose(pdf, "Une phrase commence en bas de la page et")
    pdf.add_page()
    prose(pdf, "finit sur la suivante.")
    pdf.add_page()
    prose(pdf, "Une autre commence.")
    assert [(block.page, block.text) for block in read(pdf, tmp_path / "a.pdf")] == [
        (1, "Une phrase commence en bas de la page et finit sur la suivante."),
        (3, "Une autre commence."),
    ]


def test_tables_keep_their_rows_and_columns(tmp_path: Path) -> None:
    pdf = page_of()
    prose(pdf, PARAGRAPH)
    rows = [
        ("Nom", "Ville", "Prix"),
        ("Zoé", "Lyon", "3,50"),
        ("Léa", "", "12,00"),
        ("Ana", "Une ville au nom si long " * 3, "1"),
    ]
    with pdf.table(v_align="T") as table:
        for row in rows:
            table.row(row)
    prose(pdf, PARAGRAPH)
    assert shape_of(read(pdf, tmp_path / "a.pdf")) == [
        ("paragraph", PARAGRAPH.strip()),
        ("table", "\n".join(" | ".join(cell.strip() for cell in row) for row in rows)),
        ("paragraph", PARAGRAPH.strip()),
    ]


def test_lists_keep_their_items(tmp_path: Path) -> None:
    pdf = page_of()
    prose(pdf, "Il faut :")
    pdf_line(pdf, "\x95 du pain".encode("latin-1").decode("cp1252").replace("•", "-"))
    pdf_line(pdf, "- du lait, et")
    pdf_line(pdf, "du beurre", x=14)
    prose(pdf, "1. ouvrir\n2. fermer")
    assert [block.text for block in read(pdf, tmp_path / "a.pdf") if block.kind == "list"] == [
        "- du pain\n- du lait, et du beurre\n1. ouvrir\n2. fermer"
    ]


def test_columns_are_read_one_after_the_other(tmp_path: Path) -> None:
    for by_line in (False, True):
        pdf = page_of()
        left = [f"gauche numéro {n} avec un peu de texte" for n in range(12)]
        right = [f"droite numéro {n} avec un peu de texte" for n in range(12)]
        places = [(10.0, left, n) for n in range(12)] + [(110.0, right, n) for n in range(12)]
        for x, lines, n in sorted(places, key=lambda place: place[2]) if by_line else places:
            pdf.set_xy(x, 20 + 6 * n)
            pdf.cell(0, 6, lines[n])
        text = " ".join(block.text for block in read(pdf, tmp_path / "a.pdf"))
        assert text == " ".join(left + right), by_line


def test_two_addresses_side_by_side_are_not_a_row_of_a_table(tmp_path: Path) -> None:
    pdf = page_of()
    for x, lines in ((10, ["Société Untel", "3 rue Basse"]), (120, ["Mairie de Lyon", "1 place Haute"])):
        for n, line in enumerate(lines):
            pdf.set_xy(x, 20 + 6 * n)
            pdf.cell(0, 6, line)
    pdf.set_xy(10, 60)
    prose(pdf, PARAGRAPH)
    assert [block.text for block in read(pdf, tmp_path / "a.pdf")] == [
        "Société Untel 3 rue Basse",
        "Mairie de Lyon 1 place Haute",
        PARAGRAPH.strip(),
    ]


def test_a_single_column_is_read_from_the_top_in_whatever_order_it_was_drawn(tmp_path: Path) -> None:
    pdf = page_of()
    for n in (3, 0, 2, 1):
        pdf.set_xy(10, 20 + 20 * n)
        pdf.cell(0, 6, f"Ligne {n}.")
    assert [block.text for block in read(pdf, tmp_path / "a.pdf")] == [f"Ligne {n}." for n in range(4)]


def test_a_page_turned_on_its_side_is_read_as_it_is_shown(tmp_path: Path) -> None:
    for angle in (90, 180, 270):
        pdf = page_of()
        with pdf.rotation(angle, x=pdf.w / 2, y=pdf.w / 2):
            pdf_line(pdf, "Première ligne du texte")
            pdf_line(pdf, "et deuxième.")
            pdf.ln(8)
            for row in (("Nom", "Ville"), ("Zoé", "Lyon")):
                for cell, text in enumerate(row):
                    pdf.set_x(20 + 50 * cell)
                    pdf.cell(40, 6, text)
                pdf.ln(6)
        pdf.output(str(tmp_path / "flat.pdf"))
        document = pdfium.PdfDocument(str(tmp_path / "flat.pdf"))
        document[0].set_rotation(angle)
        document.save(str(tmp_path / "a.pdf"))
        document.close()
        found = reader.read(tmp_path / "a.pdf", ExtractionLimits()).blocks
        assert shape_of(list(found)) == [
            ("paragraph", "Première ligne du texte et deuxième."),
            ("table", "Nom | Ville\nZoé | Lyon"),
        ], angle


def test_the_title_is_the_document_s_own(tmp_path: Path) -> None:
    for title, expected in (("Bilan 2024", "Bilan 2024"), ("Microsoft Word - bilan.doc", None), ("", None)):
        pdf = page_of()
        prose(pdf, PARAGRAPH)
        pdf.set_title(title)
        pdf.output(str(tmp_path / "a.pdf"))
        assert reader.read(tmp_path / "a.pdf", ExtractionLimits()).title == expected


async def test_passages_of_a_long_document_carry_page_and_chapter_and_are_the_same_each_time(tmp_path: Path) -> None:
    write_long_pdf(tmp_path / "a.pdf", 40)
    passages = await passages_of(tmp_path / "a.pdf")
    assert {passage.page for passage in passages} == set(range(1, 41))
    assert all(passage.headings == (f"Chapitre {passage.page}",) for passage in passages)
    assert passages == await passages_of(tmp_path / "a.pdf")
