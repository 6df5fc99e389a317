"""The retrieval questions hold: enough of each kind, and every excerpt is where they say."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.question_set import (
    DOCUMENTS,
    FOLDER,
    QUESTIONS,
    collapsed,
    document_paths,
    document_text,
    load_questions,
)

LEAST = {"direct": 20, "paraphrase": 10, "crosslingual": 10, "keyword": 10, "near_miss": 6, "far": 6}
ENTRY: dict[str, Any] = {
    "question": "Qui contacter pour La Cabine ?",
    "language": "fr",
    "document": "mediatheque-la-passerelle.md",
    "evidence": "auprès de M. Ilan Bergerac-Thouvenin",
    "expected": ["Bergerac-Thouvenin"],
    "kind": "direct",
}
BLOCK_END = re.compile(r"\n\s*\n|\n(?=[-|]\s|\d+\. |[^\n]* \| )|</(?:p|li|td|th|h\d)>")


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "questions.yaml"
    path.write_text(yaml.safe_dump([ENTRY | changes], allow_unicode=True), encoding="utf-8")
    return path


def test_there_are_enough_questions_of_each_kind_in_both_languages() -> None:
    questions = load_questions()
    counts = Counter(question.kind for question in questions)
    assert all(counts[kind] >= least for kind, least in LEAST.items()), counts
    answerable = Counter(question.language for question in questions if question.answerable)
    assert answerable.total() >= 60
    assert min(answerable.values()) >= 0.45 * answerable.total()
    assert len(questions) - answerable.total() >= 12


def test_every_document_is_there_and_asked_about() -> None:
    assert sorted(path.name for path in FOLDER.iterdir() if path != QUESTIONS) == sorted(DOCUMENTS)
    assert all(path.is_file() for path in document_paths())
    asked = Counter(question.document for question in load_questions() if question.document)
    assert asked.keys() == DOCUMENTS.keys()
    assert min(asked.values()) >= 10


def test_every_evidence_is_found_once_and_within_one_paragraph_item_or_row() -> None:
    for question in load_questions():
        if question.document and question.evidence:
            assert document_text(question.document).count(collapsed(question.evidence)) == 1
            raw = (FOLDER / question.document).read_text(encoding="utf-8")
            holding = [block for block in BLOCK_END.split(raw) if question.evidence in collapsed(block)]
            assert len(holding) == 1, question.evidence


def test_no_question_is_asked_twice() -> None:
    asked = Counter(question.question.casefold() for question in load_questions())
    assert asked.most_common(1)[0][1] == 1


def test_a_question_that_holds_is_loaded(tmp_path: Path) -> None:
    (question,) = load_questions(write(tmp_path))
    assert question.expected == ("Bergerac-Thouvenin",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"difficulty": 3}, "exactly the keys"),
        ({"question": " "}, "the question is empty"),
        ({"language": "de"}, "unknown language or kind"),
        ({"kind": "trick"}, "unknown language or kind"),
        ({"kind": "far"}, "has no document"),
        ({"kind": "crosslingual"}, "in another language than its document"),
        ({"language": "en"}, "in another language than its document"),
        ({"document": "reglement.md"}, "unknown document"),
        ({"evidence": "hors commune"}, "15 to 80 characters"),
        ({"evidence": "fermée au public"}, "occurs 3 times"),
        ({"evidence": "auprès de Mme Solenne Quérouault"}, "occurs 0 times"),
        ({"expected": "Bergerac"}, "a list or null"),
        ({"expected": []}, "1 to 3 expected strings"),
        ({"expected": [14]}, "empty or not quoted"),
    ],
)
def test_a_question_that_does_not_hold_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_questions(write(tmp_path, **changes))
