"""Names lead to models: the routes promised to callers, and every way a file may get them wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.catalogue import BUILT_IN_PROVIDERS, Catalogue, EcologitsModel, ParameterCount, load_catalogue
from domain.errors import ConfigurationError
from services.llm.providers.spark_auth import SPARK_PROVIDERS

SHIPPED = load_catalogue()

# The contract: names that callers use, and what serves them, first that is available.
PROMISED = {
    "google/gemma-3-27b-it": ("google/gemma-3-27b-it", "google/gemma-2-27b-it"),
    "openai/gpt-oss-120b": ("openai/gpt-oss-120b", "meta-llama/Llama-3.1-70B-Instruct"),
    "deepseek-ai/DeepSeek-V3.2": ("deepseek-ai/DeepSeek-V3.2", "deepseek-ai/DeepSeek-V3"),
    "meta-llama/Llama-4-Scout": ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
    "nvidia/Nemotron-3": (
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "nvidia/Llama-3.1-Nemotron-70B-Instruct-HF",
    ),
    "default": (
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "qwen2.5-coder-0.5b-instruct",
        "qwen2.5-coder-1.5b-instruct",
        "smollm2-135m-instruct",
    ),
}
SPARK = ("spark-api", "lite", "generalv3", "pro-128k", "generalv3.5", "max-32k", "4.0Ultra", "vision")

FILE = """\
default: [one]
endpoints:
  - name: ollama
    base_url: http://127.0.0.1:11434/v1
routes:
  - name: best
    candidates:
      - one
      - two
  - name: one
    candidates: [one, two]
models:
  - id: one
    provider: openai
    description: A model
    context: {tokens: 10, source: https://example.org, checked: 2026-11-20}
  - id: two
    provider: ollama
    aliases: [deux]
    description: Another
    context: {tokens: 10, source: https://example.org, checked: 2026-11-20}
"""
BEFORE_ROUTES, AFTER_ROUTES = FILE[: FILE.index("routes:")], FILE[FILE.index("models:") :]


def load(tmp_path: Path, text: str) -> Catalogue:
    path = tmp_path / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return load_catalogue(path)


def with_routes(routes: str) -> str:
    return f"{BEFORE_ROUTES}routes:\n{routes}{AFTER_ROUTES}"


def ids(catalogue: Catalogue, name: str) -> list[str]:
    return [model.id for model in catalogue.candidates(name)]


# What is shipped


@pytest.mark.parametrize("name", PROMISED)
def test_every_promised_name_is_served_by_its_models_in_order(name):
    assert tuple(ids(SHIPPED, name)) == PROMISED[name]


def test_no_route_is_shipped_that_is_not_promised():
    assert [route.name for route in SHIPPED.routes] == list(PROMISED)


def test_a_request_that_names_no_model_goes_to_hosted_models_first():
    assert SHIPPED.default == ("gpt-4o-mini", "mistral-small-latest", *PROMISED["default"])


def test_spark_answers_to_the_vendors_names_and_claims_no_price_and_no_impact():
    spark = [model for model in SHIPPED.models if model.provider in SPARK_PROVIDERS]
    assert tuple(model.id for model in spark) == (*SPARK, "x1")
    assert [model.id for model in spark if model.provider == "spark-http" or model.capabilities.tools] == ["x1"]
    assert {(model.price, model.impact) for model in spark} == {(None, None)}
    assert [model.id for model in spark if model.capabilities.vision] == ["vision"]


def test_models_behind_the_hugging_face_router_have_no_price_and_an_impact_from_public_parameters():
    models = [model for model in SHIPPED.models if model.provider == "huggingface"]
    assert len(models) == 11
    assert {model.price for model in models} == {None}
    for model in models:
        match model.impact:
            case ParameterCount(active_billion=active, total_billion=total):
                assert active <= total
            case EcologitsModel(provider=provider, model=known):
                assert (provider, known) == ("huggingface_hub", model.id)
            case _:
                pytest.fail(f"{model.id} has no impact")


@pytest.mark.parametrize(
    ("model", "provider", "dimensions", "may_be_shorter"),
    [
        ("text-embedding-3-small", "openai", 1536, True),
        ("text-embedding-3-large", "openai", 3072, True),
        ("mistral-embed", "mistral", 1024, False),
        ("use-multilingual-v3", "local", 512, False),
    ],
)
def test_embeddings_say_how_many_numbers_they_give(model, provider, dimensions, may_be_shorter):
    entry = SHIPPED.get(model)
    assert entry is not None
    assert (entry.type, entry.provider, entry.dimensions) == ("embedding", provider, dimensions)
    assert entry.capabilities.dimensions is may_be_shorter


# What a name leads to


def test_a_route_leads_to_its_candidates_and_a_model_to_itself(tmp_path):
    catalogue = load(tmp_path, FILE)
    assert ids(catalogue, "best") == ["one", "two"]
    assert ids(catalogue, "two") == ids(catalogue, "deux") == ["two"]
    assert ids(catalogue, "three") == []


def test_a_route_named_like_its_first_model_adds_stand_ins_to_it(tmp_path):
    assert ids(load(tmp_path, FILE), "one") == ["one", "two"]


def test_a_route_may_bear_an_alias_of_its_first_model(tmp_path):
    text = with_routes("  - name: deux\n    candidates: [two, one]\n")
    assert ids(load(tmp_path, text), "deux") == ["two", "one"]


def test_the_default_may_name_a_route(tmp_path):
    assert load(tmp_path, FILE.replace("default: [one]", "default: [best]")).default == ("best",)


# What a file may get wrong


@pytest.mark.parametrize(
    ("before", "after", "line", "problem"),
    [
        (
            "provider: openai",
            "provider: opnai",
            14,
            "models.0.provider: unknown provider 'opnai'; known: huggingface, ",
        ),
        ("provider: ollama", "provider: vllm", 18, "models.1.provider: unknown provider 'vllm'; known: "),
        ("name: ollama", "name: mistral", 3, "endpoints.0.name: the provider 'mistral' exists already"),
        ("name: ollama", "name: Ollama", 3, "endpoints.0.name: String should match pattern"),
        ("base_url: http:", "base_url: ftp:", 4, "endpoints.0.base_url: String should match pattern"),
        ("  - name: one", "  - name: best", 10, "routes.1.name: 'best' is the name of two routes"),
        ("      - two", "      - three", 9, "routes.0.candidates.1: candidate 'three' is neither a model nor a route"),
        ("[one, two]", "[two, one]", 10, "routes.1.name: 'one' is a model: it must be the first candidate"),
        ("[one, two]", "[best, one]", 10, "routes.1.name: 'one' is a model: it must be the first candidate"),
        ("[one, two]", "[]", 11, "routes.1.candidates: Tuple should have at least 1 item"),
        ("      - one", "      - best", 8, "routes.0.candidates.0: the route 'best' leads to itself"),
        ("default: [one]", "default: [six]", 1, "default.0: default names 'six', which is not in the catalogue"),
    ],
)
def test_a_wrong_name_is_refused_with_its_file_and_line(tmp_path, before, after, line, problem):
    assert FILE.count(before) == 1
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, FILE.replace(before, after))
    assert f"{tmp_path / 'models.yaml'}:{line}: {problem}" in str(refusal.value)


def test_two_endpoints_of_one_name_are_refused(tmp_path):
    second = "  - name: ollama\n    base_url: http://127.0.0.1:1/v1\nroutes:"
    with pytest.raises(ConfigurationError, match=r":5: endpoints\.1\.name: the provider 'ollama' exists already"):
        load(tmp_path, FILE.replace("routes:", second))


@pytest.mark.parametrize("name", BUILT_IN_PROVIDERS)
def test_no_endpoint_takes_the_name_of_a_provider_of_ours(tmp_path, name):
    with pytest.raises(ConfigurationError, match=f"the provider {name!r} exists already"):
        load(tmp_path, FILE.replace("name: ollama", f"name: {name}"))


@pytest.mark.parametrize(
    ("routes", "line", "problem"),
    [
        ("  - {name: a, candidates: [one, a]}", 6, "the route 'a' leads to itself"),
        ("  - {name: a, candidates: [b]}\n  - {name: b, candidates: [a]}", 6, "a cycle of routes: a → b → a"),
        (
            "  - {name: a, candidates: [one, b]}\n  - {name: b, candidates: [c]}\n  - {name: c, candidates: [two, a]}",
            6,
            "a cycle of routes: a → b → c → a",
        ),
        (
            "  - {name: a, candidates: [b]}\n  - {name: b, candidates: [c]}\n  - {name: c, candidates: [one, b]}",
            7,
            "a cycle of routes: b → c → b",
        ),
        (
            "  - {name: one, candidates: [one, b]}\n  - {name: b, candidates: [one]}",
            6,
            "a cycle of routes: one → b → one",
        ),
    ],
)
def test_routes_that_lead_back_to_themselves_are_refused(tmp_path, routes, line, problem):
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, with_routes(routes + "\n"))
    assert f"{tmp_path / 'models.yaml'}:{line}: " in str(refusal.value)
    assert problem in str(refusal.value)


@pytest.mark.parametrize(
    ("addition", "problem"),
    [
        ("dimensions: 8", "models.1.dimensions: only a model of type 'embedding' has dimensions"),
        ("capabilities: {dimensions: true}", "models.1.capabilities.dimensions: only a model of type 'embedding'"),
        ("type: embedding\n    dimensions: 0", "models.1.dimensions: Input should be greater than 0"),
        (
            "type: embedding\n    impact: {method: ecologits, provider: openai, model: gpt-4o}",
            "an embedding's impact is measured (method: cpu-time) or not known (null)",
        ),
        (
            "type: embedding\n    impact: {method: parameters, active_billion: 1, total_billion: 1, "
            "source: x, checked: 2026-11-20}",
            "an embedding's impact is measured (method: cpu-time) or not known (null)",
        ),
    ],
)
def test_an_embedding_that_would_be_counted_as_nothing_is_refused(tmp_path, addition, problem):
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, f"{FILE}    {addition}\n")
    assert f"models.yaml:{22 + addition.count(chr(10))}: models.1" in str(refusal.value)
    assert problem in str(refusal.value)


# Any catalogue at all

MODELS = [f"m{number}" for number in range(4)]


@st.composite
def routes(draw: st.DrawFn) -> list[dict[str, object]]:
    """Routes that only lead forward, some of them named like their first model."""
    found: list[dict[str, object]] = []
    names: list[str] = []
    for number in range(draw(st.integers(0, 6))):
        candidates = draw(st.lists(st.sampled_from([*MODELS, *names]), min_size=1, max_size=5))
        name = draw(st.sampled_from([f"r{number}", candidates[0] if candidates[0] in MODELS else f"r{number}"]))
        if name in names or _leads_to(name, candidates[1:], found):
            continue
        found.append({"name": name, "candidates": candidates})
        names.append(name)
    return found


def _leads_to(name: str, candidates: list[str], found: list[dict[str, object]]) -> bool:
    """Whether a model's own name is reached again by way of other routes."""
    by_name = {route["name"]: route["candidates"] for route in found}
    reached, stack = set(), list(candidates)
    while stack:
        candidate = stack.pop()
        if candidate not in reached:
            reached.add(candidate)
            stack += by_name.get(candidate, [])
    return name in reached or any(name in route["candidates"] for route in found)


def catalogue_of(found: list[dict[str, object]]) -> Catalogue:
    context = {"tokens": 1, "source": "a test", "checked": "2026-11-20"}
    models = [{"id": name, "provider": "openai", "description": "", "context": context} for name in MODELS]
    return Catalogue.model_validate({"default": [], "routes": found, "models": models})


def reference(found: list[dict[str, object]], name: str) -> list[str]:
    """The order as one would write it down by hand: depth first, repeats left out."""
    by_name = {route["name"]: route["candidates"] for route in found}
    if name not in by_name:
        return [name]
    order = []
    for candidate in by_name[name]:
        order += [candidate] if candidate == name else reference(found, candidate)
    return list(dict.fromkeys(order))


@given(found=routes())
def test_candidates_end_are_all_different_and_keep_the_order_of_the_file(found):
    catalogue = catalogue_of(found)
    for name in [*MODELS, *(str(route["name"]) for route in found)]:
        named = ids(catalogue, name)
        assert named == reference(found, name)
        assert len(set(named)) == len(named) > 0
        if name in MODELS:
            assert named[0] == name


@given(
    edges=st.lists(
        st.tuples(st.integers(0, 4), st.lists(st.sampled_from([*(f"r{n}" for n in range(5)), "m0"]), min_size=1)),
        max_size=5,
        unique_by=lambda edge: edge[0],
    )
)
def test_any_routes_are_either_refused_or_end(edges):
    found = [{"name": f"r{number}", "candidates": candidates} for number, candidates in edges]
    try:
        catalogue = catalogue_of(found)
    except ValidationError as refusal:
        problems = refusal.errors()
    else:
        problems = []
        for route in catalogue.routes:
            assert ids(catalogue, route.name) == ["m0"]
    assert {problem["type"] for problem in problems} <= {"misplaced"}
