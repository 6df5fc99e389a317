"""The house without its doors: real router, providers, graphs and accountant, over a scripted provider."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from config.catalogue import Catalogue, load_catalogue
from config.impact_factors import load_impact_factors
from config.settings import Settings
from core.http_client import HttpClient
from domain.messages import Message
from domain.principals import Principal
from domain.runs import Failed, Finished, ModelDelta, Progress, RunEvent, RunRecord, RunRequest, Started, Tokens
from services.accounting.accountant import Accountant
from services.agent_registry import AgentOptions, AgentRegistry
from services.completion import CompletionService, OpensProjects
from services.llm.chat_model import RouteurChatModel
from services.llm.factory import create_llm, create_router
from services.llm.router import Router
from services.run_context import RunContext, current_run
from services.threads import Threads
from tests.scripted_provider import ScriptedProvider, Step, scripted_provider

Node = Callable[[RouteurChatModel], Callable[[MessagesState], Any]]
"""Makes an agent's only node from the model."""

CATALOGUE = load_catalogue()


@dataclass
class RecordingLedger:
    """Keeps the rows it is given."""

    rows: list[RunRecord] = field(default_factory=list)
    begun: dict[UUID, RunRecord] = field(default_factory=dict)
    """What would be stored if the process died now."""

    def begin(self, record: RunRecord) -> None:
        self.begun[record.run_id] = record

    def record(self, record: RunRecord) -> None:
        self.abandon(record.run_id)
        self.rows.append(record)

    def abandon(self, run_id: UUID) -> None:
        self.begun.pop(run_id, None)


@dataclass
class House:
    """Everything below the doors."""

    llm: RouteurChatModel
    router: Router
    service: CompletionService
    ledger: RecordingLedger


@asynccontextmanager
async def open_house(
    provider: ScriptedProvider,
    agents: Mapping[str, Callable[..., Any]] | None = None,
    *,
    mistral_url: str | None = None,
    catalogue: Catalogue = CATALOGUE,
    stall_s: float = 20.0,
    run_timeout_s: float = 60.0,
    threads: Threads | None = None,
    projects: OpensProjects | None = None,
    options: AgentOptions | None = None,
    **offered: Any,
) -> AsyncIterator[House]:
    """OpenAI's models, and Mistral's unless it has its own address, are served by the scripted provider.

    `agents` are factories by name, all with these `options`; `offered` is what they may ask for besides the model.
    """
    settings = settings_for(provider.base_url, stall_s, mistral_url)
    http = HttpClient(10.0)
    router = create_router(catalogue, settings, http, None)
    llm = create_llm(router)
    registry = AgentRegistry()
    for name, factory in {"echo": one_node(answers), **(agents or {})}.items():
        registry.register_agent(name, factory, name, options)
    if threads is not None:
        offered["checkpointer"] = threads.saver
    ledger = RecordingLedger()
    service = CompletionService(
        agents=registry.build(llm=llm, **offered),
        router=router,
        accountant=the_accountant(),
        ledger=ledger,
        run_timeout_s=run_timeout_s,
        projects=projects,
        threads=threads,
    )
    await http.open()
    try:
        yield House(llm, router, service, ledger)
        assert service.running == 0, "a run was left going"
    finally:
        await http.close()


def settings_for(base_url: str, stall_s: float = 20.0, mistral_url: str | None = None) -> Settings:
    return Settings(
        _env_file=None,
        openai_api_key="sk-scripted-0123456789",
        mistralai_api_key="sk-scripted-0123456789",
        openai_base_url=base_url,
        mistral_base_url=mistral_url or base_url,
        provider_stall_timeout_s=stall_s,
        default_model="gpt-4o-mini",
        local_model="none",
    )


@lru_cache(maxsize=1)
def the_accountant() -> Accountant:
    return Accountant(CATALOGUE, load_impact_factors(), Settings(_env_file=None))


def answers(llm: RouteurChatModel) -> Callable[[MessagesState], Any]:
    """The node of most agents."""

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    return answer


def writes(text: str) -> Node:
    """A node that answers without a model."""
    return lambda _: lambda _: {"messages": [AIMessage(text)]}


def one_node(node: Node) -> Callable[[RouteurChatModel], StateGraph[Any]]:
    """The factory of an agent with this node alone."""

    def create_graph(llm: RouteurChatModel) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(MessagesState)
        graph.add_node("answer", node(llm))
        graph.add_edge(START, "answer")
        graph.add_edge("answer", END)
        return graph

    return create_graph


def parallel_nodes(**nodes: Node) -> Callable[[RouteurChatModel], StateGraph[Any]]:
    """The factory of an agent whose nodes all run at once."""

    def create_graph(llm: RouteurChatModel) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(MessagesState)
        for name, node in nodes.items():
            graph.add_node(name, node(llm))
            graph.add_edge(START, name)
            graph.add_edge(name, END)
        return graph

    return create_graph


def ask(agent: str | None = "echo", text: str = "Hi", **fields: Any) -> RunRequest:
    """An agent's answer is read as it comes unless `stream` says otherwise, a model's as a whole."""
    fields.setdefault("stream", agent is not None)
    return RunRequest(
        agent=agent,
        messages=(Message("user", text),),
        principal=Principal("tester"),
        request_id=fields.pop("request_id", "req-1"),
        **fields,
    )


async def events_of(house: House, request: RunRequest) -> list[RunEvent]:
    async with asyncio.timeout(90):
        return [event async for event in house.service.stream(request)]


def text_of(events: list[RunEvent]) -> str:
    return "".join("".join(event.pieces) for event in events if isinstance(event, Tokens))


def failure_of(events: list[RunEvent]) -> Exception | None:
    return next((event.error for event in events if isinstance(event, Failed)), None)


def finish_of(events: list[RunEvent]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def assert_grammar(events: list[RunEvent]) -> None:
    """Started (Tokens | Progress | ModelDelta)* Failed? Finished."""
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    middle = events[1:-1]
    if middle and isinstance(middle[-1], Failed):
        middle = middle[:-1]
    assert all(isinstance(event, Tokens | Progress | ModelDelta) for event in middle)


@asynccontextmanager
async def a_run(**fields: Any) -> AsyncIterator[RunContext]:
    """The current task works for this run."""
    run = RunContext(**{"model": "gpt-4o-mini", "requested_model": fields.get("model"), **fields})
    token = current_run.set(run)
    try:
        yield run
    finally:
        current_run.reset(token)


def said(run: RunContext) -> str:
    """What waits in the run's queue."""
    return "".join(piece for item in run.queue._items if hasattr(item, "pieces") for piece in item.pieces)


async def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for what another task brings about."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.005)


def sync_answers(llm: RouteurChatModel) -> Callable[[MessagesState], Any]:
    """The same, as a plain function."""
    return lambda state: {"messages": [llm.invoke(state["messages"])]}


@asynccontextmanager
async def house_of(
    *scripts: list[Step], repeat: bool = False, **options: Any
) -> AsyncIterator[tuple[House, ScriptedProvider]]:
    """A house and its provider, which plays these scripts."""
    async with scripted_provider(*scripts, repeat=repeat) as provider, open_house(provider, **options) as house:
        yield house, provider


def agent(node: Node) -> dict[str, Any]:
    """One agent, `mine`, of one node."""
    return {"mine": one_node(node)}


def the_row(house: House) -> RunRecord:
    """The only row."""
    assert len(house.ledger.rows) == 1
    return house.ledger.rows[0]


@asynccontextmanager
async def model(
    *scripts: list[Step], **run: Any
) -> AsyncIterator[tuple[RouteurChatModel, RunContext, ScriptedProvider]]:
    """The chat model inside a run."""
    async with scripted_provider(*scripts) as provider, open_house(provider) as house, a_run(**run) as context:
        yield house.llm, context, provider
