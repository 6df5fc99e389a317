"""Whose a project is: the first upload says so, and to everybody else there is no such thing."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

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
    "delete all": lambda house, who, document: house.documents.delete_project(who, "p"),
    "filter": lambda house, who, document: house.projects.open_filter(who, "p"),
    "strict": lambda house, who, document: house.projects.open_filter_or_raise(who, "p"),
}


@pytest.mark.parametrize("deed", DEEDS)
async def test_a_credential_for_other_projects_finds_none(house: House, deed: str) -> None:
    document = await house.take_in("p", "the words of Alice")
    with pytest.raises(NotFound, match="no "):
        await DEEDS[deed](house, LIMITED, str(document))
    assert (await house.get("p", document)).status == "succeeded"
    assert await house.projects.find(LIMITED, limit=5, offset=0) == ([], 0)


@pytest.mark.parametrize("deed", ["list", "get", "delete", "delete all", "strict"])
async def test_for_anybody_else_there_is_no_such_project(house: House, deed: str) -> None:
    document = await house.take_in("p", "the words of Alice")
    with pytest.raises(NotFound, match="no "):
        await DEEDS[deed](house, BOB, str(document))
    assert await house.projects.open_filter(BOB, "p") is None
    with pytest.raises(InvalidParameter, match=str(document)):
        await house.projects.open_filter(BOB, "p", [str(document)])
    assert (await house.get("p", document)).status == "succeeded"


async def test_two_owners_may_use_the_same_id(house: House) -> None:
    of_alice = await house.take_in("p", "les oiseaux chantent")
    of_bob = await house.take_in("p", "les oiseaux chantent", principal=BOB)
    for who, document in ((ALICE, of_alice), (BOB, of_bob)):
        assert [one.document_id for one in await house.search("p", "oiseaux", principal=who)] == [document]
        assert [one.project_id for one in (await house.documents.find(who, "p", limit=5, offset=0))[0]] == ["p"]
    with pytest.raises(NotFound):
        await house.get("p", of_alice, BOB)
    with pytest.raises(InvalidParameter):
        await house.projects.open_filter(BOB, "p", [str(of_alice)])
    await house.documents.delete_project(ALICE, "p")
    assert [one.document_id for one in await house.search("p", "oiseaux", principal=BOB)] == [of_bob]
    assert {row.project_id for row in house.ledger.rows} == {"p"}, "the ledger has the ids that owners use"


async def test_projects_of_former_versions_stay_their_owners(house: House) -> None:
    """Such a row's id is its key."""
    document = await house.take_in("p", "les oiseaux chantent")
    house.rows(
        """
        WITH former AS (
            INSERT INTO projects SELECT 'p', 'alice 2', embedding_model, created_at FROM projects RETURNING project_id
        ) SELECT * FROM former
        """
    )
    house.rows("UPDATE documents SET project_id = 'p' RETURNING 1")
    house.rows("UPDATE passages SET project_id = 'p', lexemes = lexemes || array_to_tsvector('{=p}') RETURNING 1")
    old = Principal("alice 2")
    assert [one.document_id for one in await house.search("p", "oiseaux", principal=old)] == [document]
    await house.add("p", "other", principal=old)
    assert len(house.rows("SELECT 1 FROM projects")) == 2


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


async def test_first_uploads_at_once_make_one_project_an_owner(house: House) -> None:
    await asyncio.gather(*(house.add("p", f"text {n}", principal=Principal(f"user {n % 2}")) for n in range(6)))
    assert sorted(row["owner"] for row in house.rows("SELECT owner FROM projects")) == ["user 0", "user 1"]
    assert len(house.rows("SELECT * FROM documents")) == 6


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
    found = await house.projects.open_filter(ALICE, "p", [str(document)])
    assert found is not None
    assert (found.sources, found.name) == ((document,), "p")
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
