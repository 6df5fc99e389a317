"""Whatever a body holds, the door makes a run of it or says which field does not hold: it never fails by itself."""

from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from api.openai.chat_request import CHECKS, FORWARDED, chat_request
from config.catalogue import load_catalogue
from config.settings import Settings
from domain.errors import RouteurError, UnknownAgent
from domain.principals import Principal
from domain.runs import RunRequest

FIELDS = sorted({*CHECKS, *FORWARDED, "messages", "metadata", "of_tomorrow"})
LEAVES = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=6))
JSON = st.recursive(
    LEAVES | st.sampled_from(["text", "function", "image_url", "auto", "user", "json_schema", "data:"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "text", "function", "name", "detail"]), inner)
    ),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "refusal"]) | JSON},
    optional={"text": JSON, "image_url": st.dictionaries(st.sampled_from(["url", "detail"]), JSON) | JSON},
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | JSON},
    optional={"content": st.text() | st.lists(PARTS, max_size=2) | JSON, "tool_calls": JSON, "tool_call_id": JSON},
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4)


class _Agents:
    def get_or_raise(self, name: str) -> None:
        if name != "V2":
            raise UnknownAgent(name)


SERVICES: Any = SimpleNamespace(
    router=SimpleNamespace(catalogue=load_catalogue()), agents=_Agents(), settings=Settings(_env_file=None)
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["gpt-4o", "V2", "V2@gpt-4o", "spark-api"]), BODIES, st.lists(MESSAGES, min_size=1, max_size=3))
@example(
    "gpt-4o", {"tool_choice": {}}, [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}]
)
async def test_any_body_is_a_run_or_a_refusal(name: str, fields: dict[str, Any], messages: list[Any]) -> None:
    body = {"model": name, "messages": messages, **fields}
    refused: RouteurError | None = None
    try:
        asked = await chat_request(body, [], SERVICES, principal=Principal("tester"), request_id="r")
    except RouteurError as error:
        refused = error
    if refused is not None:
        assert 400 <= refused.status < 500
        return
    assert isinstance(asked.run, RunRequest)
    assert set(asked.run.parameters) <= FORWARDED | {"spark_version"}
    assert 1 <= asked.choices <= 8


def test_what_is_checked_is_documented() -> None:
    from api.openai.schemas import CHAT_BODY

    documented = CHAT_BODY["requestBody"]["content"]["application/json"]["schema"]["properties"]
    refused_or_rare = {"modalities", "functions", "function_call", "audio", "logit_bias"}
    assert set(CHECKS) - refused_or_rare <= set(documented)
