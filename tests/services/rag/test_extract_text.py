"""Plain text, CSV and Markdown."""

from pathlib import Path
from types import ModuleType

import pytest

from domain.documents import Block
from services.rag.extraction import markdown, plain, table
from services.rag.extraction.contract import ExtractionLimits
from services.rag.splitting import LONGEST_CHARS
from tests.documents_for_tests import passages_of, shape_of

FIRST, LAST = "L’été à Évian coûte 3 € de plus.", "À bientôt, cœur léger."
FRENCH = f"{FIRST}\n\n{LAST}"


def blocks(reader: ModuleType, path: Path, content: str | bytes) -> list[Block]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(reader.read(path, ExtractionLimits()).blocks)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_french_text_is_read_in_every_usual_encoding(tmp_path: Path, encoding: str) -> None:
    content = FRENCH.encode(encoding)
    if encoding.startswith("utf-16-"):
        content = (FRENCH * 5).encode(encoding)  # Without a mark, it takes a few words to tell.
    found = blocks(plain, tmp_path / "a.txt", content)
    assert found[0].text == FIRST
    assert found[-1].text == LAST


async def test_text_in_utf_16_passes_the_check_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(FRENCH.encode("utf-16"))
    assert [passage.text for passage in await passages_of(tmp_path / "a.txt")] == [FRENCH]


def test_text_in_another_code_page_is_recognised(tmp_path: Path) -> None:
    russian = "Это обычный русский текст, написанный в старой кодировке. " * 20
    assert blocks(plain, tmp_path / "a.txt", russian.encode("cp1251"))[0].text == russian.strip()


def test_paragraphs_are_what_stands_between_empty_lines(tmp_path: Path) -> None:
    text = "Une ligne\r\net la suite.\r\n \t\r\n\r\n- un\n- deux\n\n  Fin.\x00\u200b  "
    assert shape_of(blocks(plain, tmp_path / "a.txt", text)) == [
        ("paragraph", "Une ligne\net la suite."),
        ("list", "- un\n- deux"),
        ("paragraph", "Fin."),
    ]


@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|"])
def test_a_table_is_parted_at_its_own_delimiter(tmp_path: Path, delimiter: str) -> None:
    rows = [["Nom", "Ville", "Âge"], ["Zoé", '"Lyon; 3e, | nord"', "3"], ["Léa", "Paris", "4"]]
    text = "\n".join(delimiter.join(row) for row in rows)
    assert shape_of(blocks(table, tmp_path / "a.csv", text.encode("cp1252"))) == [
        ("table", "Nom | Ville | Âge\nZoé | Lyon; 3e, | nord | 3\nLéa | Paris | 4")
    ]


def test_a_comma_in_french_numbers_does_not_part_them(tmp_path: Path) -> None:
    found = blocks(table, tmp_path / "a.csv", "Article;Prix\nPain;1,20\nLait;0,95\n")
    assert found[0].text == "Article | Prix\nPain | 1,20\nLait | 0,95"


async def test_every_passage_of_a_long_table_begins_with_the_header(tmp_path: Path) -> None:
    rows = [f"{n};Nom {n};Ville {n}" for n in range(500)]
    (tmp_path / "a.csv").write_text("Numéro;Nom;Ville\n" + "\n".join(rows))
    passages = await passages_of(tmp_path / "a.csv")
    assert all(passage.text.startswith("Numéro | Nom | Ville\n") for passage in passages)
    found = [line for passage in passages for line in passage.text.split("\n") if not line.startswith("Numéro")]
    assert [line for line in found if line] == [row.replace(";", " | ") for row in rows]


def test_in_a_wide_table_each_cell_names_its_column(tmp_path: Path) -> None:
    names = [f"Colonne numéro {n}" for n in range(20)]
    found = blocks(table, tmp_path / "a.csv", ";".join(names) + "\n" + ";".join(["x", ""] + ["y"] * 18) + "\n")
    assert found[1].text.startswith("Colonne numéro 0: x | Colonne numéro 2: y | ")
    assert all(block.kind == "list" for block in found)


def test_an_unclosed_quote_and_cells_with_line_breaks_are_survived(tmp_path: Path) -> None:
    found = blocks(table, tmp_path / "a.csv", 'a;b\n1;"deux\nlignes"\n2;"jamais fermé\n')
    assert found[0].text == "a | b\n1 | deux lignes\n2 | jamais fermé"


MARKDOWN = """---
title: "Le guide"
---
# Guide *complet*

Un [lien](https://a.example) et du `code`,
sur **deux** lignes.

Sous-titre
----------

1. un
   - un a
2. deux

   suite

| Nom | Ville |
|-----|-------|
| Zoé | `Lyon` |

> Citation &amp; fin

```python
# pas un titre
x = 1
```

<div>html</div>
"""


def test_markdown_keeps_its_structure_without_its_marks(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(MARKDOWN)
    reading = markdown.read(tmp_path / "a.md", ExtractionLimits())
    assert reading.title == "Le guide"
    assert shape_of(list(reading.blocks)) == [
        ("heading1", "Guide complet"),
        ("paragraph", "Un lien et du code, sur deux lignes."),
        ("heading2", "Sous-titre"),
        ("list", "1. un\n  - un a\n2. deux\nsuite"),
        ("table", "Nom | Ville\nZoé | Lyon"),
        ("paragraph", "Citation & fin"),
        ("code", "# pas un titre\nx = 1"),
        ("paragraph", "html"),
    ]


def test_a_long_markdown_is_read_in_slices_as_it_would_be_whole(tmp_path: Path) -> None:
    one = "## Titre\n\ntexte\nqui continue\n\n```\n# code\n\nsuite du code\n```\n\n- a\n\n  b\n\n"
    found = blocks(markdown, tmp_path / "a.md", one * 5_000)
    assert shape_of(found) == shape_of(blocks(markdown, tmp_path / "a.md", one)) * 5_000


@pytest.mark.parametrize("nest", ["> ", "- ", "1. ", "* > "])
async def test_markdown_nested_thousands_deep_keeps_its_text(tmp_path: Path, nest: str) -> None:
    (tmp_path / "a.md").write_text(f"avant\n\n{nest * 20_000}au fond\n\naprès\n")
    text = "\n".join(passage.text for passage in await passages_of(tmp_path / "a.md"))
    assert all(word in text for word in ("avant", "au fond", "après"))


async def test_a_text_without_a_single_line_break_is_cut_into_passages(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Une phrase de plus. " * 50_000)
    passages = await passages_of(tmp_path / "a.txt")
    assert len(passages) >= 1_000
    assert all(len(passage.text) <= LONGEST_CHARS for passage in passages)
