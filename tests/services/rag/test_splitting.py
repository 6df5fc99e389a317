from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.documents import Block, BlockKind, PassageDraft
from services.rag.splitting import BETWEEN_BLOCKS, LONGEST_CHARS, MAX_CHARS, MAX_TABLE_HEADER_CHARS, split

WORD = st.text("abcdéÉ.!?| ", min_size=1, max_size=12) | st.sampled_from(["Fin. ", "\n", "M. Dupont ", "x" * 1_300])
TEXT = st.lists(WORD, max_size=250).map("".join) | st.integers(0, 4_000).map(lambda n: "Le chat dort. " * (n // 14))
BLOCK = st.one_of(
    st.builds(Block, st.sampled_from(["paragraph", "list", "table", "code"]), TEXT, st.integers(1, 9)),
    st.builds(Block, st.just("heading"), TEXT | st.text("ab", max_size=9), st.just(1), st.integers(1, 12)),
)


def document_text(blocks: list[Block]) -> str:
    return BETWEEN_BLOCKS.join(block.text for block in blocks)


@settings(max_examples=150, deadline=None)
@given(st.lists(BLOCK, max_size=12))
def test_nothing_is_lost_and_every_offset_points_to_its_text_whatever_the_document(blocks: list[Block]) -> None:
    text = document_text(blocks)
    passages = list(split(iter(blocks)))
    assert [passage.ordinal for passage in passages] == list(range(len(passages)))
    end = 0
    for passage in passages:
        piece = text[passage.start_char : passage.end_char]
        assert piece == piece.strip() != ""
        assert not text[end : passage.start_char].strip(), "what lies between passages is white space"
        assert passage.text.endswith(piece)
        header = passage.text.removesuffix(piece)
        rows = [block.text.partition("\n")[0] + "\n" for block in blocks if block.kind == "table"]
        assert not header or (header in rows and len(header) <= MAX_TABLE_HEADER_CHARS)
        assert len(passage.text) <= LONGEST_CHARS
        end = passage.end_char
    assert not text[end:].strip()
    assert passages == list(split(blocks))


@settings(max_examples=100, deadline=None)
@given(st.lists(BLOCK, max_size=12))
def test_no_passage_holds_the_bodies_of_two_sections(blocks: list[Block]) -> None:
    starts: list[int] = []
    offset = 0
    after_body = False
    for block in blocks:
        if block.kind == "heading" and block.text.strip():
            if after_body:
                starts.append(offset)
            after_body = False
        elif block.text.strip():
            after_body = True
        offset += len(block.text) + len(BETWEEN_BLOCKS)
    for passage in split(blocks):
        assert not any(passage.start_char < start < passage.end_char for start in starts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=600), min_size=1, max_size=30))
def test_no_word_shorter_than_a_passage_is_cut(words: list[str]) -> None:
    for kind in ("paragraph", "list", "table", "code"):
        passages = list(split([Block(kind, " ".join(words))]))
        assert " ".join(passage.text for passage in passages).split() == words


@pytest.mark.parametrize("kind", ["paragraph", "list", "table", "code"])
def test_a_long_line_without_sentences_is_cut_between_words(kind: BlockKind) -> None:
    words = [f"mot-numéro-{n}-et-la-suite" for n in range(300)]
    passages = list(split([Block(kind, " ".join(words))]))
    assert len(passages) > 5
    assert [word for passage in passages for word in passage.text.split()] == words


def test_a_small_rest_stands_alone_where_its_neighbour_is_full() -> None:
    blocks = [Block("paragraph", letter * size) for letter, size in (("a", 200), ("b", 990), ("c", 240))]
    assert [passage.text for passage in split(blocks)] == [document_text(blocks[:2]), blocks[2].text]


def test_a_desert_of_white_space_parts_passages() -> None:
    blocks = [Block("paragraph", "a" * 990), Block("code", " \n" * 1_500), Block("paragraph", "Reste.")]
    text = document_text(blocks)
    passages = list(split(blocks))
    assert [text[passage.start_char : passage.end_char] for passage in passages] == ["a" * 990, "Reste."]
    assert [passage.text for passage in passages] == ["a" * 990, "Reste."]


def test_rows_under_a_long_repeated_header_stay_within_a_passage() -> None:
    rows = ["colonne " * 35, *("valeur " * 140 for _ in range(5))]
    passages = list(split([Block("table", "\n".join(rows))]))
    assert max(len(passage.text) for passage in passages) <= LONGEST_CHARS
    assert all(passage.text.startswith("colonne") for passage in passages)


def test_a_long_paragraph_is_cut_at_sentence_ends() -> None:
    text = " ".join(f"Selon M. Durand et l'art. 12, la phrase {n} est dite." for n in range(60))
    passages = list(split([Block("paragraph", text)]))
    assert len(passages) >= 3
    assert all(
        passage.text.startswith("Selon M. Durand") and passage.text.endswith("est dite.") for passage in passages
    )
    assert all(700 <= len(passage.text) <= MAX_CHARS for passage in passages[:-1])


def test_a_long_table_repeats_its_first_row_and_its_offsets_point_to_the_rows() -> None:
    blocks = [
        Block("paragraph", "Voici."),
        Block("table", "\n".join(["Nom | Ville", *(f"Zoé {n} | Lyon" for n in range(200))])),
    ]
    text = document_text(blocks)
    passages = list(split(blocks))
    assert passages[0].text.startswith("Voici.\n\nNom | Ville\nZoé 0")
    for passage in passages[1:]:
        rows = text[passage.start_char : passage.end_char]
        assert passage.text == f"Nom | Ville\n{rows}"
        assert rows.startswith("Zoé")
        assert rows.endswith("Lyon")


def test_a_first_row_too_long_to_repeat_is_said_once() -> None:
    header = " | ".join(f"colonne {n}" for n in range(40))
    passages = list(split([Block("table", "\n".join([header, *(f"{n} | valeur" for n in range(200))]))]))
    assert sum("colonne 39" in passage.text for passage in passages) == 1


def test_headings_lead_to_their_passages_from_the_outermost() -> None:
    blocks = [
        Block("heading", "Guide", level=1),
        Block("heading", "Installer", level=2),
        Block("paragraph", "Lancez make."),
        Block("heading", "Sous Linux", level=3),
        Block("paragraph", "Rien de plus."),
        Block("heading", "Servir", level=2),
        Block("paragraph", "Lancez serve."),
    ]
    assert [(passage.headings, passage.text) for passage in split(blocks)] == [
        (("Guide", "Installer"), "Guide\n\nInstaller\n\nLancez make."),
        (("Guide", "Installer", "Sous Linux"), "Sous Linux\n\nRien de plus."),
        (("Guide", "Servir"), "Servir\n\nLancez serve."),
    ]


def test_an_empty_section_does_not_swallow_its_sibling() -> None:
    blocks = [Block("heading", "A", level=2), Block("heading", "B", level=2), Block("paragraph", "Texte.")]
    assert [(p.headings, p.text) for p in split(blocks)] == [(("A",), "A"), (("B",), "B\n\nTexte.")]


def test_a_huge_heading_is_cut_in_the_path_and_whole_in_the_text() -> None:
    passages = list(split([Block("heading", "mot " * 5_000, level=1), Block("paragraph", "Texte.")]))
    assert all(len(passage.headings[0]) <= 200 for passage in passages)
    assert sum(passage.text.count("mot") for passage in passages) == 5_000


def test_small_blocks_of_a_section_share_a_passage_and_a_small_rest_joins_it() -> None:
    small = [Block("paragraph", f"Court {n}.") for n in range(5)]
    assert [passage.text for passage in split(small)] == [document_text(small)]
    rest = [Block("paragraph", "a" * 990), Block("paragraph", "Reste.")]
    assert [passage.text for passage in split(rest)] == [document_text(rest)]


def test_a_passage_well_begun_ends_with_its_block() -> None:
    blocks = [Block("paragraph", "Un mot. " * 80), Block("paragraph", "Autre mot. " * 60)]
    assert [passage.text for passage in split(blocks)] == [block.text.strip() for block in blocks]


def test_the_page_is_where_the_passage_begins() -> None:
    blocks = [Block("paragraph", "Phrase une. " * 70, page=n) for n in (1, 2, 3)]
    assert [passage.page for passage in split(blocks)] == [1, 2, 3]


def test_passages_come_while_blocks_are_still_read() -> None:
    read = 0

    def blocks() -> Iterator[Block]:
        nonlocal read
        for n in range(100):
            read = n
            yield Block("paragraph", "Une phrase. " * 60)

    passages = split(blocks())
    next(passages)
    assert read <= 3


@pytest.mark.parametrize("size", [1, 999, 1_000, 1_001, 2_500])
def test_a_word_longer_than_a_passage_is_cut_and_nothing_of_it_lost(size: int) -> None:
    passages: list[PassageDraft] = list(split([Block("paragraph", "x" * size)]))
    assert "".join(passage.text for passage in passages) == "x" * size
    assert all(before.end_char == after.start_char for before, after in pairwise(passages))
