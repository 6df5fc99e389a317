"""What PostgreSQL is given to find by, at storing and at asking alike: text for its full text search, and vectors."""

import unicodedata
from collections.abc import Iterable

MARK = "="
"""Begins the lexemes that say a passage's project and document. PostgreSQL's parser yields none that begin so."""


def without_accents(text: str) -> str:
    """For the English half: French typed without its accents meets there the French that has them."""
    return "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))


def scope_lexemes(scopes: Iterable[str]) -> list[str]:
    """A passage's project, or its document, as a lexeme of it: the full text index then finds within these."""
    return [MARK + scope for scope in scopes]


def quoted_lexeme(lexeme: str) -> str:
    """A lexeme as it stands in a `tsquery`."""
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def halfvec(vector: Iterable[float]) -> str:
    """A vector as pgvector reads it. Half precision keeps three digits."""
    return f"[{','.join(map('%.5g'.__mod__, vector))}]"
