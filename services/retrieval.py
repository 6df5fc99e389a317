"""What agents are handed as `retrieve`: a search in the project of the run that goes on, and in no other."""

from dataclasses import dataclass

from domain.documents import Passage, SearchFilter
from services.rag.search import Retriever
from services.run_context import RunContext, current_run, on_the_loop_of_the_run

SHOWN_TITLES = 20


@dataclass(frozen=True, slots=True)
class Retrieve:
    """`passages = await retrieve("question", k=5)`. A run without a project finds nothing."""

    retriever: Retriever

    @property
    def has_project(self) -> bool:
        """Whether the current run names a project that holds documents or may do so."""
        run = current_run.get()
        return run is not None and run.project is not None

    async def __call__(self, question: str, k: int = 5) -> list[Passage]:
        """The passages that answer a question best, the best first. Their embedding is counted in the run."""
        run = current_run.get()
        if run is None or run.project is None or not question.strip():
            return []
        project = run.project
        return await on_the_loop_of_the_run(lambda: self._search(run, project, question, k))

    async def _search(self, run: RunContext, project: SearchFilter, question: str, k: int) -> list[Passage]:
        passages = await self.retriever.search(project, question, k=k, on_call=run.calls.append)
        known = {(passage.document_id, passage.ordinal) for passage in run.passages}
        run.passages += [passage for passage in passages if (passage.document_id, passage.ordinal) not in known]
        run.show(
            "sources",
            {
                "question": question,
                "sources": [
                    {
                        "source_id": str(passage.document_id),
                        "title": passage.title,
                        "page": passage.page,
                        "score": round(passage.score, 4),
                    }
                    for passage in passages[:SHOWN_TITLES]
                ],
            },
        )
        return passages
