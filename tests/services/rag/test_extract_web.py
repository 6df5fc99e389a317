from pathlib import Path

import pytest

from domain.documents import Block
from services.rag.extraction import web
from services.rag.extraction.contract import ExtractionLimits
from tests.documents_for_tests import passages_of, shape_of

PAGE = """<!doctype html><html><head><title>Le  guide</title><style>p{}</style></head><body>
<header><a href=/>Logo</a></header><nav><ul><li>Accueil</li></ul></nav><div hidden>caché</div>
<main><header><h1>Guide <b>complet</b></h1></header>
<p>Un   paragraphe
sur deux lignes<br>et une autre.</p>
<ul><li>un<ul><li>un a</li></ul></li><li><p>deux</p></li></ul><ol><li>A<li>B</ol>
<table><caption>Les villes</caption><thead><tr><th>Nom<th>Ville</thead><tr><td>Zoé<td>Lyon<p>69</table>
<pre><code>x = 1
  y = 2</code></pre><h2>Suite</h2>texte nu<div>bloc</div><script>alert(1)</script></main>
<aside>pub</aside><footer>Mentions légales</footer></body></html>"""


def read(path: Path, content: str | bytes) -> tuple[str | None, list[Block]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    reading = web.read(path, ExtractionLimits())
    return reading.title, list(reading.blocks)


def test_a_page_is_its_content_without_its_chrome(tmp_path: Path) -> None:
    title, blocks = read(tmp_path / "a.html", PAGE)
    assert title == "Le guide"
    assert shape_of(blocks) == [
        ("heading1", "Guide complet"),
        ("paragraph", "Un paragraphe sur deux lignes\net une autre."),
        ("list", "- un\n  - un a\n- deux"),
        ("list", "1. A\n2. B"),
        ("paragraph", "Les villes"),
        ("table", "Nom | Ville\nZoé | Lyon 69"),
        ("code", "x = 1\n  y = 2"),
        ("heading2", "Suite"),
        ("paragraph", "texte nu"),
        ("paragraph", "bloc"),
    ]


def test_tables_and_lists_that_lay_the_page_out_are_not_tables_and_lists(tmp_path: Path) -> None:
    page = "<table><tr><td><h2>Titre</h2><p>Texte</p><table><tr><td>a<td>b</table></td></tr></table>"
    page += "<ul><li><h3>Carte</h3><p>Bas</p></li></ul>"
    assert shape_of(read(tmp_path / "a.html", page)[1]) == [
        ("heading2", "Titre"),
        ("paragraph", "Texte"),
        ("table", "a | b"),
        ("heading3", "Carte"),
        ("paragraph", "Bas"),
    ]


def test_a_small_article_is_not_taken_for_the_page(tmp_path: Path) -> None:
    page = "<article>teaser</article>" + "<p>Le vrai contenu de la page.</p>" * 5
    assert len(read(tmp_path / "a.html", page)[1]) == 6


@pytest.mark.parametrize("declared", ["iso-8859-1", "windows-1252", "nonsense", ""])
def test_a_page_in_latin_letters_is_read_whatever_it_declares(tmp_path: Path, declared: str) -> None:
    page = f"<meta charset='{declared}'><p>L’été coûte 3 € à Évian.</p>"
    assert read(tmp_path / "a.html", page.encode("cp1252"))[1][0].text == "L’été coûte 3 € à Évian."


@pytest.mark.parametrize("tag", ["div", "ul><li", "table><tr><td", "b", "blockquote", "h1"])
async def test_a_page_nested_thousands_deep_keeps_its_text(tmp_path: Path, tag: str) -> None:
    (tmp_path / "a.html").write_text("avant<p>" + f"<{tag}>" * 5_000 + "au fond")
    text = "\n".join(passage.text for passage in await passages_of(tmp_path / "a.html"))
    assert "avant" in text
    assert "au fond" in text
