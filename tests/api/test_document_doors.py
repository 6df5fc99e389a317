"""Documents over HTTP: sent, followed, searched, deleted, and nobody else's business."""

import json
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.api_errors import check_error
from tests.documents_for_tests import write_long_pdf
from tests.live_server import LiveServer, live_server, wait_until
from tests.postgres_for_tests import folder

KEYS = {"alice": "key-of-alice-0123456789abcdef0123456789", "bob": "key-of-bob-0123456789abcdef012345678901"}
UPLOAD_MB = 48
LEASE = "# Résiliation\n\nLe locataire peut résilier le bail avec un préavis de trois mois.\n\n# Loyer\n\nLe premier."
MANUAL = "# Safety\n\nAlways unplug the machine before cleaning the blades.\n"
WAIT_S = 90


@pytest.fixture(scope="module")
def library() -> Iterator[LiveServer]:
    """A server with its own PostgreSQL and two callers; other bodies may be far smaller than documents."""
    keys = ",".join(f"{name}:{key}" for name, key in KEYS.items())
    with (
        folder() as data_dir,
        live_server(
            data_dir, API_KEYS=keys, MAX_UPLOAD_MB_DOCUMENTS=str(UPLOAD_MB), MAX_BODY_BYTES="100000", SSE_PING_S="0.2"
        ) as server,
    ):
        wait_until(lambda: database_state(server) == "ready", WAIT_S, "the database is ready")
        yield server


def database_state(server: LiveServer) -> str:
    ready = httpx.get(f"{server.url}/ready", trust_env=False, timeout=60)
    return str(ready.json()["dependencies"]["database"]["state"])


def client_of(server: LiveServer, name: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {KEYS[name]}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=60)


@pytest.fixture
async def alice(library: LiveServer) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(library, "alice") as client:
        yield client


@pytest.fixture
async def bob(library: LiveServer) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(library, "bob") as client:
        yield client


@pytest.fixture
def project() -> str:
    return f"p-{uuid.uuid4()}"


async def send(client: httpx.AsyncClient, project: str, text: str | bytes, name: str = "bail.md") -> httpx.Response:
    return await client.post(f"/projects/{project}/documents", files={"file": (name, text)})


async def follow(client: httpx.AsyncClient, project: str, document_id: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a document, to their end."""
    async with client.stream("GET", f"/projects/{project}/documents/{document_id}/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        body = (await answer.aread()).decode()
    events = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        if block != ": ping":
            kind, content = block.split("\n")
            events.append((kind.removeprefix("event: "), json.loads(content.removeprefix("data: "))))
    return events


async def taken_in(client: httpx.AsyncClient, project: str, text: str, name: str = "bail.md") -> str:
    accepted = await send(client, project, text, name)
    assert accepted.status_code == 202, accepted.text
    document_id = str(accepted.json()["document_id"])
    kind, document = (await follow(client, project, document_id))[-1]
    assert kind == "succeeded", document
    return document_id


async def test_a_document_from_its_upload_to_its_end(alice: httpx.AsyncClient, project: str) -> None:
    accepted = await send(alice, project, LEASE)
    assert accepted.status_code == 202
    content = accepted.json()
    assert set(content) == {"document_id", "job_id", "status"}
    assert content["status"] == "queued"
    path = f"/projects/{project}/documents"
    document_id = content["document_id"]
    events = await follow(alice, project, document_id)
    assert {kind for kind, _ in events[:-1]} <= {"progress"}
    assert events[-1][0] == "succeeded"
    document = (await alice.get(f"{path}/{document_id}")).json()
    assert events[-1][1] == document
    assert (document["title"], document["media_type"], document["status"]) == ("bail.md", "text/markdown", "succeeded")
    assert (document["project_id"], document["progress_percent"], document["error"]) == (project, 100, None)
    assert document["size_bytes"] == len(LEASE.encode())
    assert document["passages"] > 0
    assert (await alice.get(path)).json() == {"documents": [document], "total": 1}
    again = await send(alice, project, LEASE, "other-name.md")
    assert (again.status_code, again.json()) == (200, content | {"status": "succeeded"})
    assert (await alice.delete(f"{path}/{document_id}")).status_code == 204
    check_error(await alice.get(f"{path}/{document_id}"), 404, "not_found")
    check_error(await alice.delete(f"{path}/{document_id}"), 404, "not_found")
    assert (await alice.get(path)).json() == {"documents": [], "total": 0}
    assert (await alice.get(f"/projects/{project}/search", params={"q": "préavis"})).json()["passages"] == []


async def test_searching_says_where_the_passage_is_and_what_it_cost(
    alice: httpx.AsyncClient, library: LiveServer, project: str
) -> None:
    lease = await taken_in(alice, project, LEASE)
    manual = await taken_in(alice, project, MANUAL, "manual.md")
    path, named = f"/projects/{project}/search", {"X-Request-ID": f"search-{project}"}
    found = (await alice.get(path, params={"q": "Quel est le préavis ?", "k": 2}, headers=named)).json()
    assert found["total"] == len(found["passages"]) == 2
    best = found["passages"][0]
    assert set(best) == {"source_id", "title", "page", "headings", "text", "start_char", "end_char", "score"}
    assert (best["source_id"], best["title"], best["page"]) == (lease, "bail.md", None)
    assert best["headings"] == ["Résiliation"]
    assert "préavis" in best["text"]
    assert -1 <= best["score"] <= 1
    assert found["metadata"]["usage"]["input_tokens"] > 0
    (row,) = library.wait_for_rows(1, "request_id = %s", named["X-Request-ID"])
    assert (row["subject"], row["project_id"], row["status"]) == ("alice", project, "succeeded")
    assert str(row["run_id"]) == found["metadata"]["run_id"]
    english = (await alice.get(path, params={"q": "Should I unplug the machine?", "k": 1})).json()
    assert english["passages"][0]["source_id"] == manual
    for sources in ([("sources", manual)], [("sources", f"{manual},{manual}")], [("sources", manual), ("sources", "")]):
        limited = (await alice.get(path, params=[("q", "préavis"), ("k", "50"), *sources])).json()
        assert {passage["source_id"] for passage in limited["passages"]} == {manual}
    both = await alice.get(path, params={"q": "préavis", "sources": f"{lease},{manual}", "k": 50})
    assert {passage["source_id"] for passage in both.json()["passages"]} == {lease, manual}


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({}, "q"),
        ({"q": ""}, "q"),
        ({"q": " "}, "q"),
        ({"q": "x" * 2_001}, "q"),
        ({"q": "x", "k": 0}, "k"),
        ({"q": "x", "k": 51}, "k"),
        ({"q": "x", "sources": "nothing-of-ours"}, "nothing-of-ours"),
    ],
)
async def test_a_search_that_cannot_be_is_refused_by_name(
    alice: httpx.AsyncClient, library: LiveServer, parameters: dict[str, Any], named: str
) -> None:
    await send(alice, "refusals", LEASE)
    answer = await alice.get("/projects/refusals/search", params=parameters)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]


async def test_to_somebody_else_each_route_says_that_there_is_nothing(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, project: str
) -> None:
    document_id = await taken_in(alice, project, LEASE)
    path = f"/projects/{project}/documents"
    for answer in (
        await bob.get(path),
        await bob.get(f"{path}/{document_id}"),
        await bob.get(f"{path}/{document_id}/events"),
        await bob.delete(f"{path}/{document_id}"),
        await bob.delete(f"/projects/{project}"),
        await bob.get(f"/projects/{project}/search", params={"q": "préavis", "sources": document_id}),
    ):
        foreign = check_error(answer, 404, "not_found")
        missing = await bob.get(str(answer.request.url).replace(project, "nobody-s"))
        if answer.request.method == "GET":
            assert check_error(missing, 404, "not_found").replace("nobody-s", project) == foreign
    assert (await alice.get(f"{path}/{document_id}")).json()["passages"] > 0


async def test_two_callers_may_use_the_same_id(alice: httpx.AsyncClient, bob: httpx.AsyncClient, project: str) -> None:
    for client in (alice, bob):
        await taken_in(client, project, LEASE)
        listed = (await client.get("/projects", params={"limit": 200})).json()["projects"]
        assert [one["documents"] for one in listed if one["project_id"] == project] == [1]
    assert (await alice.delete(f"/projects/{project}")).status_code == 204
    check_error(await alice.delete(f"/projects/{project}"), 404, "not_found")
    assert (await bob.get(f"/projects/{project}/search", params={"q": "préavis"})).json()["total"] > 0


@pytest.mark.parametrize("route", ["documents", "documents/5b8e7c1e-5d0f-4a43-9a55-0d9b3a6a7f10", "search?q=x"])
async def test_a_project_that_nobody_has_is_not_found(alice: httpx.AsyncClient, route: str) -> None:
    check_error(await alice.get(f"/projects/nobody-s/{route}"), 404, "not_found")


async def test_without_a_credential_nothing_is_read(library: LiveServer) -> None:
    async with httpx.AsyncClient(base_url=library.url, trust_env=False, timeout=30) as stranger:
        check_error(await send(stranger, "p", b"x" * 1_000_000), 401, "unauthorized")
        check_error(await stranger.get("/projects/p/documents"), 401, "unauthorized")


def test_a_client_that_closes_still_gets_its_refusal(library: LiveServer) -> None:
    """It sends all it has before it reads: an answer on a connection that is closed meanwhile would be lost."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    url = f"{library.url}/projects/p/documents"
    request = urllib.request.Request(url, b"x" * 20_000_000, headers)  # noqa: S310 - loopback
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)  # noqa: S310 - the same
    assert refused.value.code == 401
    refused.value.close()


async def test_a_file_that_cannot_be_read_says_why(alice: httpx.AsyncClient, project: str) -> None:
    accepted = (await send(alice, project, b"%PDF-1.7 and then nothing", "broken.pdf")).json()
    kind, document = (await follow(alice, project, accepted["document_id"]))[-1]
    assert kind == "failed"
    assert document["error"]
    again = await send(alice, project, b"%PDF-1.7 and then nothing", "broken.pdf")
    assert again.status_code == 202
    assert again.json()["document_id"] == accepted["document_id"]
    assert again.json()["status"] == "queued"


@pytest.mark.parametrize(
    ("files", "status", "code", "said"),
    [
        ({"file": ("notes.odt", b"x")}, 415, "unsupported_media_type", ".docx"),
        ({"file": ("no end", b"x")}, 415, "unsupported_media_type", ".pdf"),
        ({"file": ("../..", b"x")}, 400, "bad_request", "name"),
        ({"file": ("empty.txt", b"")}, 400, "bad_request", "empty"),
        ({"document": ("a.txt", b"x")}, 400, "bad_request", "'file'"),
        ({"file": ("a.txt", b"x"), "extra": (None, "y")}, 400, "bad_request", "extra"),
        ([("file", ("a.txt", b"x")), ("file", ("b.txt", b"y"))], 400, "bad_request", "one file"),
        ({"file": (None, "not a file")}, 400, "bad_request", "as a file"),
    ],
)
async def test_uploads_of_anything_but_one_document_are_refused(
    alice: httpx.AsyncClient, project: str, files: Any, status: int, code: str, said: str
) -> None:
    answer = await alice.post(f"/projects/{project}/documents", files=files)
    assert said in check_error(answer, status, code)
    check_error(await alice.get(f"/projects/{project}/documents"), 404, "not_found")


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b"{}", 415),
        ("", b"x", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"no boundary at all", 400),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\ncut off',
            400,
        ),
        ("multipart/form-data; boundary=b", b"--b\r\nX: " + b"y" * 70_000 + b"\r\n\r\n--b--\r\n", 400),
    ],
)
async def test_bodies_that_are_no_forms_are_refused(
    alice: httpx.AsyncClient, project: str, content_type: str, content: bytes, status: int
) -> None:
    headers = {"Content-Type": content_type}
    answer = await alice.post(f"/projects/{project}/documents", content=content, headers=headers)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("C:\\Users\\me\\bail.txt", "bail.txt"),
        ("../../etc/passwd.txt", "passwd.txt"),
        ("été – n° 1.TXT", "été – n° 1.TXT"),
        ("a\u202eb\u0007.txt", "ab.txt"),
        ("x" * 400 + ".txt", "x" * 251 + ".txt"),
    ],
)
async def test_names_are_shown_without_folders_and_tricks(
    alice: httpx.AsyncClient, project: str, sent: str, shown: str
) -> None:
    boundary = b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + sent.encode() + b'"\r\n\r\n'
    answer = await alice.post(
        f"/projects/{project}/documents",
        content=boundary + b"some text\r\n--b--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert answer.status_code == 202, answer.text
    (document,) = (await alice.get(f"/projects/{project}/documents")).json()["documents"]
    assert document["title"] == shown


@pytest.mark.parametrize("odd", ["x" * 129, "a%0Ab"])
async def test_odd_project_ids_are_refused_at_the_upload(alice: httpx.AsyncClient, odd: str) -> None:
    check_error(await send(alice, odd, "text"), 400, "invalid_parameter")
    check_error(await alice.get(f"/projects/{odd}/documents"), 404, "not_found")


def test_an_upload_over_the_limit_is_refused_by_its_length_before_it_is_read(library: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", library.port), timeout=60) as connection:
        head = (
            "POST /projects/p/documents HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {KEYS['alice']}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n"
            f"Content-Length: {UPLOAD_MB * 1_048_576 + 100_000}\r\n\r\n"
        )
        connection.sendall(head.encode())
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_an_upload_over_the_limit_is_refused_without_a_length(alice: httpx.AsyncClient, project: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        for _ in range(UPLOAD_MB + 1):
            yield b"x" * 1_048_576

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await alice.post(f"/projects/{project}/documents", content=chunks(), headers=headers)
    assert "MAX_UPLOAD_MB_DOCUMENTS" in check_error(answer, 413, "payload_too_large")


async def test_other_bodies_keep_their_own_limit(alice: httpx.AsyncClient) -> None:
    answer = await alice.post("/completion", json={"message": "x" * 100_001})
    assert "MAX_BODY_BYTES" in check_error(answer, 413, "payload_too_large")


async def test_a_large_upload_is_never_in_memory_whole(
    alice: httpx.AsyncClient, library: LiveServer, project: str
) -> None:
    await taken_in(alice, project, "warm up")  # The model is loaded.
    server = psutil.Process(library.root.pid)
    before = server.memory_info().rss
    peak = before

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal peak
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n'
        for number in range(UPLOAD_MB - 1):
            yield bytes([number]) * 1_048_576
            peak = max(peak, server.memory_info().rss)
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await alice.post(f"/projects/{project}/documents", content=chunks(), headers=headers)
    assert answer.status_code == 202, answer.text
    assert max(peak, server.memory_info().rss) - before < 25_000_000
    document_id = answer.json()["document_id"]
    assert (await alice.get(f"/projects/{project}/documents/{document_id}")).json()["size_bytes"] == 47 * 1_048_576


async def test_a_pdf_knows_its_pages_and_the_list_its_pages_too(
    alice: httpx.AsyncClient, project: str, tmp_path: Path
) -> None:
    write_long_pdf(tmp_path / "long.pdf", 3)
    accepted = await send(alice, project, (tmp_path / "long.pdf").read_bytes(), "long.pdf")
    _, document = (await follow(alice, project, accepted.json()["document_id"]))[-1]
    assert (document["status"], document["pages"]) == ("succeeded", 3)
    await taken_in(alice, project, MANUAL)
    listed = [
        (await alice.get(f"/projects/{project}/documents", params={"limit": 1, "offset": offset})).json()
        for offset in range(3)
    ]
    assert [page["total"] for page in listed] == [2, 2, 2]
    assert [[document["title"] for document in page["documents"]] for page in listed] == [["long.pdf"], ["bail.md"], []]


async def test_following_a_document_that_is_deleted_ends(
    alice: httpx.AsyncClient, project: str, tmp_path: Path
) -> None:
    write_long_pdf(tmp_path / "long.pdf", 150)
    accepted = await send(alice, project, (tmp_path / "long.pdf").read_bytes(), "long.pdf")
    document_id = accepted.json()["document_id"]
    async with alice.stream("GET", f"/projects/{project}/documents/{document_id}/events") as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "event: progress"
        assert (await alice.delete(f"/projects/{project}/documents/{document_id}")).status_code == 204
        last = [line async for line in lines if line.startswith(("event", "data"))][-2:]
    assert last == ["event: deleted", f'data: {{"document_id":"{document_id}"}}']


async def test_without_its_database_a_server_says_so() -> None:
    with folder() as data_dir, live_server(data_dir, database=False) as server:
        async with server.client() as client:
            message = check_error(await send(client, "p", "text"), 503, "database_unavailable")
            assert "database" in message
            check_error(await client.get("/projects/p/documents"), 503, "database_unavailable")
            check_error(await client.get("/projects/p/search", params={"q": "x"}), 503, "database_unavailable")
