"""The guide to recordings tells the truth: its calls, pasted as they are, give text, here and with no key."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live_server import ROOT, LiveServer, live_server
from tests.postgres_for_tests import folder
from tests.speech_for_tests import FRENCH_SENTENCES, encoded, spoken
from tests.whisper_model import link_whisper

GUIDE = (ROOT / "docs" / "transcription.md").read_text(encoding="utf-8")
PRINTED_ADDRESS = "http://127.0.0.1:7860"
CALL_S = 110
SENTENCE = FRENCH_SENTENCES[0]
WORDS = "réunion commence"


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with folder() as data_dir:
        link_whisper(data_dir)
        with live_server(data_dir) as running:
            yield running


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as path:
        (path / "reunion.wav").write_bytes(encoded(spoken(SENTENCE), "wav"))
        yield path


def run_block(server: LiveServer, place: Path, block: str, **variables: str) -> str:
    given = "".join(f"{name}={value}\n" for name, value in variables.items())
    script = (given + block).replace(PRINTED_ADDRESS, server.url)
    ran = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, timeout=CALL_S, check=True, cwd=place
    )
    return ran.stdout


def test_its_calls_lead_from_speech_to_text(server: LiveServer, place: Path) -> None:
    get_token, at_once, meeting, send, see = re.findall(r"^```bash\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    token = run_block(server, place, f"{get_token}\necho $TOKEN").strip()
    heard = json.loads(run_block(server, place, at_once, TOKEN=token))
    assert WORDS in heard["text"].lower()
    assert (heard["language"], heard["model"]) == ("fr", "whisper-base")
    assert heard["metadata"]["emissions_gCO2eq"] > 0
    summed_up = json.loads(run_block(server, place, meeting, TOKEN=token))
    assert WORDS in summed_up["text"].lower()
    assert summed_up["meeting"].keys() == {"summary", "decisions", "actions", "error"}
    assert "no model can serve now" in summed_up["meeting"]["error"], (
        "there is none here: the transcript comes all the same"
    )
    wait_for_database(server, token)
    job = json.loads(run_block(server, place, send, TOKEN=token))["job_id"]
    deadline = time.monotonic() + CALL_S
    while (seen := json.loads(run_block(server, place, see, TOKEN=token, JOB=job)))["status"] != "succeeded":
        assert seen["status"] in {"queued", "running"}, seen
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert WORDS in seen["transcript_text"].lower()


def test_its_program_speaks_openais_protocol(server: LiveServer, place: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    program = program.replace(PRINTED_ADDRESS, server.url).replace("YOUR_TOKEN_OR_API_KEY", server.token())
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=CALL_S, check=True, cwd=place
    )
    assert WORDS in ran.stdout.lower()
    assert ran.stdout.strip().endswith("0.0")


def wait_for_database(server: LiveServer, token: str) -> None:
    """The server answers before its database does."""
    deadline = time.monotonic() + CALL_S
    headers = {"Authorization": f"Bearer {token}"}
    while (
        httpx.get(f"{server.url}/transcription/jobs", headers=headers, trust_env=False, timeout=60).status_code == 503
    ):
        assert time.monotonic() < deadline
        time.sleep(0.2)
