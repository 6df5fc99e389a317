"""The real tiny model on this machine, through the official client: nothing is faked here."""

from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel

from tests.live_server import LiveServer, live_server
from tests.postgres_for_tests import folder
from tests.tiny_model import TINY_MODEL, link_tiny_model


class City(BaseModel):
    name: str
    is_capital: bool


@pytest.fixture(scope="module")
def local() -> Iterator[LiveServer]:
    with folder() as data_dir:
        link_tiny_model(data_dir)
        with live_server(data_dir, database=False, LOCAL_MODEL=TINY_MODEL) as server:
            yield server


def test_it_streams_and_fills_a_schema(local: LiveServer) -> None:
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=f"{local.url}/v1", api_key=local.token(), max_retries=0, http_client=http) as client:
        with client.chat.completions.create(
            model=TINY_MODEL,
            messages=[{"role": "user", "content": "Say hello."}],
            max_completion_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ) as stream:
            chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert chunks[-2].choices[0].finish_reason in {"stop", "length"}
        assert chunks[-1].usage is not None
        assert 0 < chunks[-1].usage.completion_tokens <= 12
        parsed = client.chat.completions.parse(
            model=TINY_MODEL,
            messages=[{"role": "user", "content": "Oslo is the capital of Norway. Describe Oslo."}],
            response_format=City,
            max_completion_tokens=200,
            temperature=0,
        )
    assert isinstance(parsed.choices[0].message.parsed, City)
    impact = (parsed.model_extra or {})["impact"]
    assert impact["method"] == "cpu-time"
    assert impact["cost_eur"] == 0.0
