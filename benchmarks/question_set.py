"""Which questions measure retrieval, and on which documents: loaded from `questions/`, refused when they do not hold.

`evidence` is a verbatim excerpt that occurs once in its document, inside one paragraph, item or row: a passage that
holds it holds the answer. One of `expected` occurs in a right answer. Compare either after `collapsed`, and `expected`
without regard to case.
"""

import re
from dataclasses import dataclass, fields
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

Language = Literal["fr", "en"]
Kind = Literal["direct", "paraphrase", "crosslingual", "keyword", "near_miss", "far"]

FOLDER = Path(__file__).parent / "questions"
QUESTIONS = FOLDER / "questions.yaml"
DOCUMENTS: dict[str, Language] = {
    "kelvane-k9-notice.txt": "fr",
    "mediatheque-la-passerelle.md": "fr",
    "piscine-les-ondines.html": "fr",
    "quillmere-returns-and-warranty.md": "en",
    "tarrowby-employee-handbook.md": "en",
}
UNANSWERABLE = frozenset({"near_miss", "far"})
EVIDENCE_CHARS = range(15, 81)
MAX_EXPECTED = 3

_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True, slots=True)
class Question:
    """What a user types, and how to tell a right passage and a right answer."""

    question: str
    language: Language
    document: str | None
    """A file's name; `None` when no document answers."""
    evidence: str | None
    expected: tuple[str, ...] | None
    kind: Kind

    @property
    def answerable(self) -> bool:
        return self.document is not None


def load_questions(path: Path = QUESTIONS) -> list[Question]:
    """Every question, in the file's order; raises `ValueError` with the first that does not hold."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(entries, list):
        raise ValueError(f"{path.name}: a list of questions is expected")
    return [_question(entry) for entry in entries]


def document_paths() -> list[Path]:
    """The documents that the questions are about."""
    return [FOLDER / name for name in DOCUMENTS]


def collapsed(text: str) -> str:
    """With single spaces, of whatever sort they and the line breaks were."""
    return " ".join(text.split())


@cache
def document_text(name: str) -> str:
    """A document's raw text, collapsed; a page's without its tags."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return collapsed(unescape(_TAG.sub(" ", text)) if name.endswith(".html") else text)


def _question(entry: Any) -> Question:
    known = {field.name for field in fields(Question)}
    if not isinstance(entry, dict) or entry.keys() != known:
        raise ValueError(f"{entry!r}: exactly the keys {sorted(known)} are expected")
    expected = entry["expected"]
    if expected is not None and not isinstance(expected, list):
        raise ValueError(f"{entry['question']!r}: expected is a list or null (got {expected!r})")
    question = Question(**{**entry, "expected": None if expected is None else tuple(expected)})
    if problem := _problem(question):
        raise ValueError(f"{question.question!r}: {problem}")
    return question


def _problem(question: Question) -> str | None:
    """What does not hold, or `None`."""
    if not isinstance(question.question, str) or not question.question.strip():
        return "the question is empty"
    if question.language not in get_args(Language) or question.kind not in get_args(Kind):
        return f"unknown language or kind ({question.language!r}, {question.kind!r})"
    if question.kind in UNANSWERABLE:
        answer = (question.document, question.evidence, question.expected)
        return None if answer == (None, None, None) else "a question without answer has no document, evidence, expected"
    if question.document not in DOCUMENTS:
        return f"unknown document {question.document!r}"
    if (question.language != DOCUMENTS[question.document]) != (question.kind == "crosslingual"):
        return "a crosslingual question, and no other, is in another language than its document"
    return _evidence_problem(question.document, question.evidence) or _expected_problem(question.expected)


def _evidence_problem(document: str, evidence: str | None) -> str | None:
    if not isinstance(evidence, str) or len(evidence) not in EVIDENCE_CHARS:
        return f"the evidence has {EVIDENCE_CHARS.start} to {EVIDENCE_CHARS.stop - 1} characters (got {evidence!r})"
    times = document_text(document).count(collapsed(evidence))
    return None if times == 1 else f"the evidence {evidence!r} occurs {times} times in {document}"


def _expected_problem(expected: tuple[str, ...] | None) -> str | None:
    if not expected or len(expected) > MAX_EXPECTED:
        return f"1 to {MAX_EXPECTED} expected strings (got {expected!r})"
    if not all(isinstance(text, str) and text.strip() for text in expected):
        return f"an expected string is empty or not quoted (got {expected!r})"
    return None
