"""Whose a project is: the first upload says so, and to everybody else there is no such thing."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from domain.documents import SearchFilter
from domain.errors import InvalidParameter, NotFound
from domain.principals import Principal
from tests.projects_for_tests import ALICE, BOB, House

Deed = Callable[[House, Principal, str], Awaitable[object]]

LIMITED = Principal("alice", projects=frozenset({"else"}))
DEEDS: dict[str, Deed] = {
    "upload": lambda house, who, document: house.add("p", "other bytes", principal=who),
    "check": lambda house, who, document: house.projects.check_upload(who, "p"),
    "list": lambda house, who, document: house.documents.find(who, "p", limit=5, offset=0),
    "get": lambda house, who, document: house.documents.get_or_raise(who, "p", document),
    "delete": lambda house, who, document: house.documents.delete(who, "p", document),
    "filter": lambda house, who, document: house.projects.open_filter(who, "p", [document]),
    "strict": lambda house, who, document: house.projects.open_filter_or_raise(who, "p"),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("who", [BOB, LIMITED], ids=["somebody else", "a credential for other projects"])
async def test_for_anybody_else_there_is_no_such_project(house: House, deed: str, who: Principal) -> None:
    document = await house.take_in("p", "the words of Alice")
    with pytest.raises(NotFound, match="no "):
        await DEEDS[deed](house, who, str(document))
    assert (await house.get("p", document)).status == "succeeded"
    assert house.rows("SELECT owner FROM projects") == [{"owner": "alice"}]


async def test_a_credential_for_this_project_is_let_in(house: House) -> None:
    document = await house.take_in("p", "the words of Alice")
    allowed = Principal("alice", projects=frozenset({"p"}))
    assert (await house.get("p", document, allowed)).document_id == document


async def test_a_document_is_not_found_through_another_project_of_its_owner(house: House) -> None:
    document = await house.take_in("p", "one")
    await house.take_in("q", "two")
    with pytest.raises(NotFound):
        await house.get("q", document)
    with pytest.raises(NotFound):
        await house.documents.delete(ALICE, "q", str(document))
    with pytest.raises(InvalidParameter, match=str(document)):
        await house.projects.open_filter(ALICE, "q", [str(document)])


async def test_of_two_first_uploads_at_once_one_makes_the_project_its_own(house: House) -> None:
    tried = await asyncio.gather(
        *(house.add("p", f"text {who}", principal=Principal(f"user {who}")) for who in range(6)), return_exceptions=True
    )
    accepted = [result for result in tried if not isinstance(result, BaseException)]
    assert len(accepted) == 1
    assert all(isinstance(result, NotFound) for result in tried if isinstance(result, BaseException))
    assert len(house.rows("SELECT * FROM documents")) == 1


async def test_a_project_that_nobody_has_is_a_label_with_nothing_to_find(house: House) -> None:
    assert await house.projects.open_filter(ALICE, "nobody's") is None
    assert await house.projects.open_filter(ALICE, "odd/\x00 id" * 100) is None
    with pytest.raises(NotFound):
        await house.projects.open_filter_or_raise(ALICE, "nobody's")
    with pytest.raises(NotFound):
        await house.documents.find(ALICE, "nobody's", limit=5, offset=0)


async def test_sources_are_checked_each_by_its_name(house: House) -> None:
    document = await house.take_in("p", "one")
    foreign, no_id = str(uuid4()), "not an id"
    assert await house.projects.open_filter(ALICE, "p", [str(document)]) == SearchFilter("p", (document,))
    with pytest.raises(InvalidParameter) as refused:
        await house.projects.open_filter(ALICE, "p", [str(document), foreign, no_id, f"{{{document}}}"])
    assert refused.value.param == "sources"
    assert foreign in refused.value.message
    assert no_id in refused.value.message
    assert f"'{document}'" not in refused.value.message
    with pytest.raises(InvalidParameter, match=foreign):
        await house.projects.open_filter(ALICE, "nobody's", [foreign])


@pytest.mark.parametrize("project", ["", "a/b", "a\nb", "x" * 129, "\ud800", "\x00"])
async def test_ids_that_no_project_may_have_are_refused(house: House, project: str) -> None:
    with pytest.raises(InvalidParameter, match="project_id"):
        await house.add(project, "text")


@pytest.mark.parametrize("project", ["x" * 128, "dossier n° 42 – été", 'o\'clock \\ "q" | & ! :* <->', "=p", "%s"])
async def test_odd_ids_work_throughout(house: House, project: str) -> None:
    document = await house.take_in(project, "les oiseaux chantent")
    assert [passage.document_id for passage in await house.search(project, "oiseaux")] == [document]
    assert [p.document_id for p in await house.search(project, "oiseaux", [document])] == [document]
    assert (await house.documents.find(ALICE, project, limit=5, offset=0))[1] == 1
