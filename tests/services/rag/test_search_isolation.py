"""Whatever projects, documents and filters there are: nothing from outside a filter ever comes back."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.documents import Passage, SearchFilter
from domain.errors import InvalidParameter
from domain.principals import Principal
from tests.projects_for_tests import House, open_projects

WORDS = ["chat", "chien", "maison", "jardin", "the", "house", "garden", "loyer", "contrat", "rent"]
OWNERS = ["alice", "bob"]
PROJECTS = ["p", "p2", "p'", "=p", "p & q", "P"]
ASKS = 6

texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
documents = st.lists(texts, min_size=1, max_size=4, unique=True).map("\n".join)
projects = st.dictionaries(
    st.tuples(st.sampled_from(PROJECTS), st.sampled_from(OWNERS)),
    st.lists(documents, min_size=1, max_size=4, unique=True),
    min_size=1,
    max_size=5,
)
asks = st.lists(
    st.tuples(
        st.sampled_from(OWNERS),
        st.sampled_from(PROJECTS),
        texts,
        st.lists(st.integers(0, 20), max_size=3),
        st.integers(1, 50),
    ),
    min_size=1,
    max_size=ASKS,
)
Kept = dict[UUID, tuple[str, str]]
"""Each document's project and owner."""


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(world=projects, asked=asks)
def test_nothing_from_outside_the_filter_comes_back(
    loop: asyncio.AbstractEventLoop,
    migrated_url: str,
    tmp_path: Path,
    world: dict[tuple[str, str], list[str]],
    asked: list[tuple[str, str, str, list[int], int]],
) -> None:
    async def check() -> None:
        async with open_projects(migrated_url, tmp_path) as house:
            async with house.database.connection() as connection:
                await connection.execute("TRUNCATE projects, documents, passages, document_files CASCADE")
            kept = await _fill(house, world)
            for owner, project, question, picks, k in asked:
                await _ask(
                    house, kept, Principal(owner), project, question, [sorted(kept)[p % len(kept)] for p in picks], k
                )

    loop.run_until_complete(check())


async def _fill(house: House, world: dict[tuple[str, str], list[str]]) -> Kept:
    kept: Kept = {}
    for (project, owner), texts_of_it in world.items():
        for text in texts_of_it:
            kept[await house.take_in(project, text, principal=Principal(owner))] = (project, owner)
    return kept


async def _ask(
    house: House, kept: Kept, who: Principal, project: str, question: str, sources: list[UUID], k: int
) -> None:
    own = (project, who.subject)
    try:
        allowed = await house.projects.open_filter(who, project, [str(source) for source in sources])
    except InvalidParameter:
        assert any(kept[source] != own for source in sources)
        return
    if allowed is None:
        assert own not in kept.values()
        return
    assert all(kept[source] == own for source in sources)
    found = await house.retriever.search(allowed, question, k=k, on_call=lambda _: None)
    _check(found, kept, own, sources, k)
    # The filter alone decides, also one that was made for documents which are not there, or not of the project.
    for odd in (SearchFilter(allowed.project_id, tuple(kept)), SearchFilter("nobody's", tuple(sources))):
        for passage in await house.retriever.search(odd, question, k=k, on_call=lambda _: None):
            assert (kept[passage.document_id], odd.project_id) == (own, allowed.project_id)


def _check(found: list[Passage], kept: Kept, own: tuple[str, str], sources: list[UUID], k: int) -> None:
    assert all(kept[passage.document_id] == own for passage in found)
    assert all(passage.document_id in sources for passage in found if sources)
    allowed = sources or [document for document, place in kept.items() if place == own]
    assert found, f"nothing in {len(allowed)} documents"
    assert len(found) <= k
    assert len({(passage.document_id, passage.ordinal) for passage in found}) == len(found)
