"""The guide to documents tells the truth: its calls, pasted as they are, upload, find and answer."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live_server import ROOT, LiveServer, live_server
from tests.postgres_for_tests import folder
from tests.tiny_model import TINY_MODEL, link_tiny_model

GUIDE = (ROOT / "docs" / "documents.md").read_text(encoding="utf-8")
PRINTED_ADDRESS = "http://127.0.0.1:7860"
CALL_S = 110
READY_S = 110.0


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with folder() as data_dir:
        link_tiny_model(data_dir)
        with live_server(data_dir, LOCAL_MODEL=TINY_MODEL, LOCAL_CONTEXT_TOKENS="1024") as running:
            yield running


def run_block(server: LiveServer, place: Path, block: str, token: str) -> str:
    script = f"TOKEN={token}\n{block}".replace(PRINTED_ADDRESS, server.url)
    ran = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, timeout=CALL_S, check=True, cwd=place
    )
    return ran.stdout


def test_its_calls_lead_from_a_file_to_an_answer(server: LiveServer) -> None:
    get_token, send, see, search, ask = re.findall(r"^```bash\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    with folder() as place:
        token = run_block(server, place, f"{get_token}\necho $TOKEN", "").strip()
        wait_for_database(server, token)
        sent = json.loads(run_block(server, place, send, token))
        assert sent["status"] == "queued"
        document = wait_for_document(server, place, see, token)
        assert (document["document_id"], document["status"]) == (sent["document_id"], "succeeded")
        found = json.loads(run_block(server, place, search, token))["passages"]
        assert "4 euros" in found[0]["text"]
        answered = json.loads(run_block(server, place, ask, token))
    assert answered["agent"] == "RAG"
    assert answered["response"]
    for source in answered["metadata"]["sources"]:
        assert source["source_id"] == sent["document_id"]
        assert source.keys() == {"source_id", "title", "page", "score", "excerpt"}


def wait_for_database(server: LiveServer, token: str) -> None:
    """The server answers before its database does."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        headers = {"Authorization": f"Bearer {token}"}
        if httpx.get(f"{server.url}/threads", headers=headers, trust_env=False, timeout=30).status_code == 200:
            return
        time.sleep(0.1)


def wait_for_document(server: LiveServer, place: Path, see: str, token: str) -> dict[str, Any]:
    until = time.monotonic() + READY_S
    while True:
        (document,) = json.loads(run_block(server, place, see, token))["documents"]
        if document["status"] in {"succeeded", "failed"} or time.monotonic() > until:
            return dict(document)
        time.sleep(0.2)
