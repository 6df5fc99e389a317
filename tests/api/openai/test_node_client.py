"""The official Node client: what its users do, against our server. Skipped where there is no Node."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import LiveServer
from tests.provider_thread import play
from tests.scripted_provider import Cut, ScriptedProvider, Status, Wait, call_tool, finish, say

RUN_S = 60
Ask = Callable[[str], Any]

pytestmark = pytest.mark.skipif(not shutil.which("npm"), reason="needs Node.js and npm")


@pytest.fixture
def ask(client_script: Path, server: LiveServer) -> Ask:
    def run(what: str) -> Any:
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        ran = subprocess.run(
            ["node", str(client_script), f"{server.url}/v1", server.token(), what],
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return run


def test_a_whole_answer(ask: Ask, provider: ScriptedProvider) -> None:
    play(provider, [*say("Il", " était"), *finish(25, 2)])
    answer = ask("whole")
    assert answer["text"] == "Il était"
    assert answer["usage"]["total_tokens"] == 27
    assert answer["cost"] > 0


def test_a_stream_with_usage(ask: Ask, provider: ScriptedProvider) -> None:
    play(provider, [*say("Il", " était"), *finish(25, 2)])
    answer = ask("stream")
    assert answer["text"] == "Il était"
    assert answer["ids"] == 1
    assert answer["reasons"] == [None, None, None, "stop"]
    assert answer["usage"]["completion_tokens"] == 2
    assert answer["agent"] == "V2"


def test_the_stream_helper(ask: Ask, provider: ScriptedProvider) -> None:
    play(provider, [*say("Il", " était"), *finish(25, 2)])
    assert ask("helper") == {"pieces": ["Il", " était"], "text": "Il était", "reason": "stop"}


def test_a_tool_loop(ask: Ask, provider: ScriptedProvider) -> None:
    play(provider, [*call_tool("weather", '{"city":', '"Oslo"}'), *finish(reason="tool_calls")])
    play(provider, [*say("Il fait 4 °C."), *finish()])
    assert ask("tools") == {"arguments": {"city": "Oslo"}, "text": "Il fait 4 °C."}


def test_the_stream_helper_gathers_tool_calls(ask: Ask, provider: ScriptedProvider) -> None:
    play(provider, [*call_tool("weather", '{"city":', '"Oslo"}'), *finish(reason="tool_calls")])
    answer = ask("streamed_tools")
    assert answer["call"]["id"] == "call_1"
    function = answer["call"]["function"]
    assert (function["name"], function["arguments"]) == ("weather", '{"city":"Oslo"}')
    assert (answer["content"], answer["reason"]) == (None, "tool_calls")


def test_structured_output(ask: Ask, provider: ScriptedProvider) -> None:
    play(provider, [*say('{"city": ', '"Oslo"}'), *finish()])
    assert ask("structured") == {"city": "Oslo"}
    assert provider.requests[0]["response_format"]["json_schema"]["strict"] is True


def test_models_are_listed_and_found(ask: Ask) -> None:
    answer = ask("models")
    assert {"gpt-4o", "V2", "default"} <= set(answer["ids"])
    assert (answer["one"], answer["owner"]) == ("google/gemma-3-27b-it", "huggingface")


def test_embeddings(ask: Ask) -> None:
    answer = ask("embeddings")
    assert answer["length"] == 512
    assert answer["difference"] < 1e-6


def test_errors_are_the_clients_own_classes(ask: Ask) -> None:
    stranger, unknown, bad = ask("errors")
    assert (stranger["kind"], stranger["status"], stranger["code"]) == ("AuthenticationError", 401, "invalid_api_key")
    assert (unknown["kind"], unknown["code"], unknown["param"]) == ("NotFoundError", "model_not_found", "model")
    assert (bad["kind"], bad["param"], bad["type"]) == ("BadRequestError", "temperature", "invalid_request_error")
    assert all(error["hasRequestId"] for error in (stranger, unknown, bad))


def test_the_client_does_not_retry_what_the_router_has_given_up(ask: Ask, provider: ScriptedProvider) -> None:
    play(provider, [Status(401)])
    assert ask("retries")["status"] == 502
    assert len(provider.requests) == 1


def test_an_error_in_mid_stream_raises(ask: Ask, provider: ScriptedProvider) -> None:
    play(provider, [*say("Il", " était"), Wait(0.05), Cut()])
    assert ask("broken")["code"] == "provider_cut"
