"""RAG: answers from the documents of a project, with citations, and says so when they do not hold the answer.

retrieve → grade → answer, or rewrite the question and retrieve once more, or say that it is not known. The grader has
the model quote the words that answer: a quotation is checked against the passages, which small models invent around.
"""

from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel, Field
from pydantic.config import JsonDict

from domain.citations import CitationCheck, numbered
from domain.documents import Passage
from domain.excerpts import excerpt
from domain.grounding import is_borne_out, quoted_in
from graphs.structured import filled, is_large
from graphs.wording import UNKNOWN, language_of, last_question, question_in_context
from services.agent_registry import AgentOptions, agent_registry

MAX_REWRITES = 1
PASSAGES = 8
SMALL_PASSAGES, SMALL_PASSAGE_CHARS = 4, 500
"""For small models on this machine, which read 220 tokens a second."""
HISTORY_MESSAGES = 6
"""Earlier messages that the answer may lean on; what is asked stands in the passages."""

PASSAGES_PROMPT = "Tu réponds aux questions d'après les passages numérotés ci-dessous, et rien d'autre.\n\n{passages}"
QUOTE_PROMPT = (
    "Question : {question}\n\nCopie mot pour mot la phrase des passages qui répond à cette question, et donne le "
    "numéro de son passage. Si aucun passage n'y répond, laisse la phrase vide et donne 0."
)
ANSWER_PROMPT = (
    "Question : {question}\n\nRéponds à cette question dans sa langue, en une ou quelques phrases complètes, "
    "uniquement d'après les passages. Après chaque affirmation, cite le numéro de son passage entre crochets, "
    "comme [{example}].{hint}"
)
FOCUSED_PROMPT = (
    "Texte :\n{text}\n\nQuestion : {question}\nRéponds à la question dans sa langue, en une phrase complète, avec les "
    "mots du texte."
)
HINT = " Le passage [{place}] dit : « {quotation} »"
REWRITE_PROMPT = (
    "La recherche de cette question dans des documents n'a rien donné :\n{question}\n\n"
    "Écris-la autrement, dans la même langue, avec d'autres mots que l'auteur des documents a pu employer."
)


# Told to the model; one that does not keep to it is understood all the same.
MAX_QUOTATION: JsonDict = {"maxLength": 400}
MAX_QUESTION: JsonDict = {"maxLength": 300}


class Quotation(BaseModel):
    """The words of a passage that answer the question."""

    quotation: str = Field(description="La phrase du passage, mot pour mot, ou vide.", json_schema_extra=MAX_QUOTATION)
    passage: int = Field(description="Le numéro du passage, ou 0.", ge=0)


class Rewritten(BaseModel):
    """The question in other words."""

    question: str = Field(json_schema_extra=MAX_QUESTION)


class RagState(MessagesState):
    """`question` is what is searched for, `quotation` what was found to answer it; `sources` are the passages cited."""

    question: str
    rewrites: int
    passages: list[Passage]
    quotation: str
    quoted: int
    sources: list[Passage]


@dataclass(frozen=True, slots=True)
class RagSteps:
    """The steps are fixed, and the model fills schemas: it need not be large enough to choose them."""

    llm: Any
    retrieve: Any

    async def read(self, state: RagState) -> dict[str, Any]:
        # What the former turn of a thread left behind goes.
        question = question_in_context(state["messages"])
        return {"question": question, "rewrites": 0, "passages": [], "quotation": "", "quoted": 0, "sources": []}

    async def find(self, state: RagState) -> dict[str, Any]:
        k = PASSAGES if is_large(self.llm) else SMALL_PASSAGES
        return {"passages": await self.retrieve(state["question"], k=k)}

    async def grade(self, state: RagState) -> dict[str, Any]:
        question, passages = last_question(state["messages"]), state["passages"]
        if not passages:
            return {"quotation": "", "quoted": 0}
        asked = [shown(self.llm, passages, question), HumanMessage(QUOTE_PROMPT.format(question=question))]
        quotation = await filled(self.llm, Quotation, self.llm.trim_to_context(asked))
        place = quoted_in(quotation.quotation, question, passages) if quotation else None
        return {"quotation": quotation.quotation if quotation and place else "", "quoted": place or 0}

    async def rewrite(self, state: RagState) -> dict[str, Any]:
        question = last_question(state["messages"])
        rewritten = await filled(self.llm, Rewritten, [HumanMessage(REWRITE_PROMPT.format(question=question))])
        other = rewritten.question.strip() if rewritten else ""
        return {"question": f"{question}\n{other}" if other else question, "rewrites": state["rewrites"] + 1}

    async def answer(self, state: RagState) -> dict[str, Any]:
        check = CitationCheck(state["passages"])
        await self.llm.ainvoke(answer_messages(self.llm, state), rewrite=check)
        return {"messages": [AIMessage(check.text)], "sources": check.cited}

    async def answer_carefully(self, state: RagState) -> dict[str, Any]:
        """What a small model says, or any without a quotation, goes out only if the passages bear it out."""
        question, passages, quoted = last_question(state["messages"]), state["passages"], state["quoted"]
        shown_ones = passages[quoted - 1 : quoted] if quoted else passages
        asked = answer_messages(self.llm, state) if is_large(self.llm) else focused_messages(question, shown_ones)
        said = str((await self.llm.with_config(tags=["nostream"]).ainvoke(asked)).text).strip()
        check = CitationCheck(passages if is_large(self.llm) else shown_ones, default=1 if quoted else None)
        check.feed([said])
        check.end()
        if not check.cited or not is_borne_out(said, question, check.cited):
            return await self.say_unknown(state)
        return {"messages": [AIMessage(check.text)], "sources": check.cited}

    async def say_unknown(self, state: RagState) -> dict[str, Any]:
        language = await language_of(last_question(state["messages"]))
        return {"messages": [AIMessage(UNKNOWN[language])], "sources": []}

    def after_grade(self, state: RagState) -> Literal["answer", "rewrite", "answer_carefully", "say_unknown"]:
        if not is_large(self.llm):
            return "answer_carefully" if state["passages"] else "say_unknown"
        if state["quoted"]:
            return "answer"
        if state["rewrites"] < MAX_REWRITES and self.retrieve.has_project:
            return "rewrite"
        return "answer_carefully" if state["passages"] else "say_unknown"


def create_rag_graph(llm: Any, retrieve: Any) -> StateGraph[Any]:
    """retrieve → grade → answer; or rewrite and once more; or say that it is not known."""
    steps = RagSteps(llm, retrieve)
    graph: StateGraph[Any] = StateGraph(RagState)
    graph.add_node("read", steps.read)
    graph.add_node("retrieve", steps.find)
    graph.add_node("grade", steps.grade)
    graph.add_node("rewrite", steps.rewrite)
    graph.add_node("answer", steps.answer)
    graph.add_node("answer_carefully", steps.answer_carefully)
    graph.add_node("say_unknown", steps.say_unknown)
    graph.add_edge(START, "read")
    graph.add_edge("read", "retrieve")
    graph.add_edge("retrieve", "grade")
    graph.add_conditional_edges("grade", steps.after_grade)
    graph.add_edge("rewrite", "retrieve")
    for last in ("answer", "answer_carefully", "say_unknown"):
        graph.add_edge(last, END)
    return graph


def shown(llm: Any, passages: list[Passage], question: str) -> SystemMessage:
    """The passages, first in every prompt of a run: a local model then reads them once."""
    if is_large(llm):
        return SystemMessage(PASSAGES_PROMPT.format(passages=numbered(passages)))
    texts = [excerpt(passage.text, question, SMALL_PASSAGE_CHARS) for passage in passages]
    return SystemMessage(PASSAGES_PROMPT.format(passages=numbered(passages, texts)))


def focused_messages(question: str, passages: list[Passage]) -> list[BaseMessage]:
    """For a small model: what the question is about, and nothing that it could repeat instead of answering."""
    texts = [excerpt(passage.text, question, SMALL_PASSAGE_CHARS) for passage in passages]
    text = "\n\n".join(f"{' > '.join(one.headings[-1:])}\n{part}" for one, part in zip(passages, texts, strict=True))
    return [HumanMessage(FOCUSED_PROMPT.format(text=text, question=question))]


def answer_messages(llm: Any, state: RagState) -> list[BaseMessage]:
    """The passages, what was said before, and the question with the words that answer it, when they were found."""
    messages = state["messages"]
    history = [message for message in messages[:-1] if isinstance(message, HumanMessage | AIMessage)]
    quoted = state["quoted"]
    hint = HINT.format(place=quoted, quotation=state["quotation"]) if quoted else ""
    question = last_question(messages)
    prompt = ANSWER_PROMPT.format(question=question, example=quoted or 1, hint=hint)
    asked = [shown(llm, state["passages"], question), *history[-HISTORY_MESSAGES:], HumanMessage(prompt)]
    trimmed: list[BaseMessage] = llm.trim_to_context(asked)
    return trimmed


agent_registry.register_agent(
    "RAG", create_rag_graph, "Answers from a project's documents, with citations", AgentOptions(needs_project=True)
)
