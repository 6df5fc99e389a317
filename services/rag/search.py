"""Hybrid search: by meaning and by words, fused, within one project and never outside of it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core.database import Database, storable
from domain.documents import Passage, SearchFilter
from domain.errors import InvalidParameter
from domain.usage import Call
from services.embeddings.service import EmbeddingRequest, EmbeddingService
from services.rag.search_sql import BY_ALL_WORDS, BY_WORDS, FUSED, MODEL_OF_PROJECT
from services.rag.search_text import halfvec, quoted_lexeme, scope_lexemes, without_accents

MAX_K = 50
MAX_QUESTION_CHARS = 2_000


class Retriever:
    """Finds the passages that answer a question. What it may look at is its filter's matter, not the question's."""

    def __init__(self, database: Database, embeddings: EmbeddingService) -> None:
        self._database = database
        self._embeddings = embeddings
        self._models: dict[str, str] = {}  # A project's model never changes, and its key is never used again.

    async def search(
        self,
        filter: SearchFilter,  # noqa: A002 - the word that everyone uses for it
        question: str,
        *,
        k: int = 5,
        on_call: Callable[[Call], None],
    ) -> list[Passage]:
        """The best `k` passages, the best first; `on_call` hears of the embedding's call, however it ends.

        The order is that of the fusion; `score` is the cosine similarity. Ties are broken by age.
        """
        if not 1 <= k <= MAX_K:
            raise InvalidParameter("k", f"{k}: give 1 to {MAX_K}")
        if not question.strip():
            raise InvalidParameter("q", "the question is empty")
        model = await self._model_of(filter.project_id)
        if model is None:
            return []
        asked = _shortened(storable(question))
        parameters = _parameters(filter)
        by_words = asyncio.create_task(self._by_words(parameters, asked), name="search by words")
        try:
            request = EmbeddingRequest(model, (asked,))
            vector = halfvec((await self._embeddings.embed(request, on_call)).vectors[0])
            weights = await by_words
        finally:
            by_words.cancel()
            await asyncio.gather(by_words, return_exceptions=True)
        parameters |= {"vector": vector, "found": list(weights), "weights": list(weights.values()), "k": k}
        async with self._database.connection() as connection:
            rows = await (await connection.execute(FUSED, parameters)).fetchall()
        return [_passage(row) for row in rows]

    async def _model_of(self, project_id: str) -> str | None:
        """The embedding model of the project; `None` while it does not exist."""
        if (model := self._models.get(project_id)) is not None:
            return model
        async with self._database.connection() as connection:
            row = await (await connection.execute(MODEL_OF_PROJECT, (project_id,))).fetchone()
        if row is None:
            return None
        return self._models.setdefault(project_id, str(row["embedding_model"]))

    async def _by_words(self, parameters: Mapping[str, Any], question: str) -> dict[int, float]:
        """What the words of the question are worth in the passages that have them."""
        asked = {**parameters, "question": question, "plain": without_accents(question)}
        async with self._database.connection() as connection:
            rows = await (await connection.execute(BY_WORDS, asked)).fetchall()
            if not rows:
                rows = await (await connection.execute(BY_ALL_WORDS, asked)).fetchall()
        return {row["passage_id"]: row["weight"] for row in rows}


def _shortened(question: str) -> str:
    """A very long message asks at its beginning or at its end."""
    if len(question) <= MAX_QUESTION_CHARS:
        return question
    half = MAX_QUESTION_CHARS // 2
    return f"{question[:half]}\n{question[-half:]}"


def _parameters(allowed: SearchFilter) -> dict[str, Any]:
    scope: Sequence[str] = [str(source) for source in allowed.sources] or [allowed.project_id]
    return {
        "project": allowed.project_id,
        "sources": list(allowed.sources) or None,
        "within": f"({' | '.join(quoted_lexeme(lexeme) for lexeme in scope_lexemes(scope))})",
    }


def _passage(row: Mapping[str, Any]) -> Passage:
    return Passage(**{**row, "headings": tuple(row["headings"])})
