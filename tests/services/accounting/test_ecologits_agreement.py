"""Our fast evaluation is ecologits' own, and its figures are the ones we published."""

from typing import Any

import pytest
from ecologits.electricity_mix_repository import electricity_mixes
from ecologits.impacts.llm import compute_llm_impacts
from ecologits.model_repository import models as ecologits_models
from ecologits.tracers.utils import PROVIDER_CONFIG_MAP, llm_impacts
from ecologits.utils.range_value import RangeValue
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from config.catalogue import EcologitsModel, ModelEntry, ParameterCount, load_catalogue
from config.impact_factors import load_impact_factors
from config.settings import Settings
from domain.impact import Footprint
from domain.reports import Range
from domain.usage import Call, TokenUsage
from services.accounting.impact_methods import create_impact_method

CATALOGUE = load_catalogue()
BY_ECOLOGITS = {model.id: model.impact for model in CATALOGUE.models if isinstance(model.impact, EcologitsModel)}
BY_SIZE = {model.id: model.impact for model in CATALOGUE.models if isinstance(model.impact, ParameterCount)}
ZONES = (None, "FRA", "CHN")
NO_LIMIT_S = 1e9

# Energy (kWh), GWP (kgCO2eq) and water (L) of 1,000 output tokens, means, in the provider's zone: ecologits 0.11.3.
# A new version moves them; when it does, say so in the changelog.
PUBLISHED = {
    "gpt-6.1-sol": (0.0018682914471726663, 0.000774457325129427, 0.006737557169557184),
    "gpt-6-astra": (0.01886886748273664, 0.007574786003008361, 0.0680461678407448),
    "gpt-6-luna": (0.00013548402769449834, 5.7934427232944577e-05, 0.0004885915329404247),
    "gpt-4o": (0.0019167878266910777, 0.0007735932236881622, 0.006912448046468554),
    "gpt-4o-mini": (7.124559322792245e-05, 2.953495510063201e-05, 0.0002569306080047523),
    "gpt-4-turbo": (0.006522857744481811, 0.002740346209007733, 0.02352316445533282),
    "gpt-3.5-turbo": (0.00024766366509796224, 0.00010011468807672476, 0.0008931412199872826),
    "mistral-large-latest": (0.002852226234159396, 0.00020427142009338348, 0.017424495946051385),
    "mistral-medium-latest": (0.0007529049213521391, 9.418781845828076e-05, 0.0045995610701366554),
    "mistral-small-latest": (0.0003447233269386026, 4.136417240483517e-05, 0.002105944521796148),
    "ministral-3b-latest": (8.069149305115851e-05, 9.630656137041763e-06, 0.0004929512872127128),
    "google/gemma-2-27b-it": (0.00010451816185399313, 4.9602741451700686e-05, 0.00037985476132426134),
    "openai/gpt-oss-120b": (0.00031827220713578517, 0.00015027202555216158, 0.0011567100983520787),
    "meta-llama/Meta-Llama-3-8B-Instruct": (8.287143282801403e-05, 3.916139878462904e-05, 0.000301183141562143),
}
# The same, in the world's zone, of the models that are known by their size.
PUBLISHED_BY_SIZE = {
    "google/gemma-3-27b-it": (0.00011269218898716382, 6.109043716996624e-05, 0.0004873561533064912),
    "meta-llama/Llama-3.1-70B-Instruct": (0.0006604411088459751, 0.00035953555155454994, 0.0028561876487227323),
    "deepseek-ai/DeepSeek-V3.2": (0.0039789008971844765, 0.002159647416771581, 0.017207420080023923),
    "deepseek-ai/DeepSeek-V3": (0.0039789008971844765, 0.002159647416771581, 0.017207420080023923),
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": (0.0004002920783993005, 0.0002166347220618853, 0.0017311298083841867),
    "meta-llama/Llama-3.1-8B-Instruct": (8.918898600324552e-05, 4.818004040096701e-05, 0.0003857126348020384),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": (8.3813705196908e-05, 4.5227378672178635e-05, 0.000362466337074879),
    "nvidia/Llama-3.1-Nemotron-70B-Instruct-HF": (0.0006604411088459751, 0.00035953555155454994, 0.0028561876487227323),
}


def entry_with(impact: dict[str, Any]) -> ModelEntry:
    context = {"tokens": 1, "source": "a test", "checked": "2026-11-20"}
    fields = {"id": "m", "provider": "p", "description": "", "context": context, "impact": impact}
    return ModelEntry.model_validate(fields)


def footprint(impact: dict[str, Any], *, tokens: int, latency_s: float, zone: str | None = None) -> Footprint:
    settings = Settings(_env_file=None, impact_zone=zone)
    method = create_impact_method(entry_with(impact), factors=load_impact_factors(), settings=settings)
    assert method is not None
    found = method.footprint(Call("m", "p", TokenUsage(None, tokens), False, "succeeded", latency_s))
    assert found is not None
    return found


def same(value: float | RangeValue) -> Range:
    low, high = (value.min, value.max) if isinstance(value, RangeValue) else (value, value)
    return Range(*(pytest.approx(bound, rel=1e-9) for bound in (low, (low + high) / 2, high)))


def assert_same(ours: Footprint, theirs: Any) -> None:
    assert ours.energy == same(theirs.energy.value)
    assert ours.gwp == same(theirs.gwp.value)
    assert ours.gwp_usage == same(theirs.usage.gwp.value)
    assert ours.gwp_embodied == same(theirs.embodied.gwp.value)
    assert ours.wcf == same(theirs.wcf.value)


@pytest.mark.parametrize("model_id", BY_ECOLOGITS)
@examples(deadline=None)
@given(tokens=st.integers(1, 200_000), latency_s=st.floats(0.0, 10_000.0), zone=st.sampled_from(ZONES))
def test_every_model_of_the_catalogue_emits_what_ecologits_says(model_id, tokens, latency_s, zone):
    source = BY_ECOLOGITS[model_id]
    theirs = llm_impacts(source.provider, source.model, tokens, latency_s, electricity_mix_zone=zone)
    assert_same(footprint(source.model_dump(), tokens=tokens, latency_s=latency_s, zone=zone), theirs)


@pytest.mark.parametrize("provider", sorted(PROVIDER_CONFIG_MAP))
def test_every_model_that_ecologits_knows_emits_what_it_says(provider):
    known = [model.name for model in ecologits_models.list_models() if model.provider.value == provider]
    assert known
    for name in known:
        for tokens, latency_s in ((1, 0.2), (400, 5.0), (3_000, NO_LIMIT_S)):
            theirs = llm_impacts(provider, name, tokens, latency_s)
            impact = {"method": "ecologits", "provider": provider, "model": name}
            assert_same(footprint(impact, tokens=tokens, latency_s=latency_s), theirs)


@examples(deadline=None)
@given(
    active=st.floats(0.1, 500.0),
    experts=st.floats(1.0, 10.0),
    tokens=st.integers(1, 200_000),
    latency_s=st.floats(0.0, 10_000.0),
)
def test_a_model_of_public_size_emits_what_ecologits_says(active, experts, tokens, latency_s):
    mix = electricity_mixes.find_electricity_mix("WOR")
    theirs = compute_llm_impacts(
        model_active_parameter_count=active,
        model_total_parameter_count=active * experts,
        output_token_count=tokens,
        request_latency=latency_s,
        if_electricity_mix_adpe=mix.adpe,
        if_electricity_mix_pe=mix.pe,
        if_electricity_mix_gwp=mix.gwp,
        if_electricity_mix_wue=mix.wue,
        datacenter_pue=1.2,
        datacenter_wue=0.5,
    )
    ours = footprint(parameters(active, active * experts), tokens=tokens, latency_s=latency_s)
    assert_same(ours, theirs)


def test_a_dense_model_of_70_billion_parameters_emits_what_the_worked_example_says():
    figures = footprint(parameters(70.6, 70.6), tokens=400, latency_s=NO_LIMIT_S)
    assert figures.energy is not None
    assert figures.gwp is not None
    assert figures.wcf is not None
    assert figures.energy.mean == pytest.approx(0.264e-3, abs=0.0005e-3)
    assert figures.gwp.mean == pytest.approx(0.144e-3, abs=0.0005e-3)
    assert figures.wcf.mean == pytest.approx(1.14e-3, abs=0.005e-3)


@pytest.mark.parametrize(
    ("sources", "published"), [(BY_ECOLOGITS, PUBLISHED), (BY_SIZE, PUBLISHED_BY_SIZE)], ids=["by name", "by size"]
)
def test_the_figures_of_the_catalogue_are_the_published_ones(sources, published):
    figures = {}
    for model_id, source in sources.items():
        found = footprint(source.model_dump(), tokens=1_000, latency_s=NO_LIMIT_S)
        means = tuple(figure.mean for figure in (found.energy, found.gwp, found.wcf) if figure)
        figures[model_id] = pytest.approx(means, rel=1e-9)
    assert figures == published


def parameters(active_billion: float, total_billion: float) -> dict[str, Any]:
    return {
        "method": "parameters",
        "active_billion": active_billion,
        "total_billion": total_billion,
        "source": "a test",
        "checked": "2026-11-20",
    }
