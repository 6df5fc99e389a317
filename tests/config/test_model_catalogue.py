"""The shipped catalogue holds, and a wrong one names the file and the line."""

from datetime import date
from pathlib import Path

import pytest

from config.catalogue import Catalogue, ListPrice, load_catalogue
from domain.errors import ConfigurationError

ONE_MODEL = """\
default: [tiny]
models:
  - id: tiny
    provider: local
    description: A model
    context: {tokens: 10, source: https://example.org, checked: 2026-11-20}
"""


def load(tmp_path: Path, text: str) -> Catalogue:
    path = tmp_path / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return load_catalogue(path)


def test_the_shipped_catalogue_chooses_hosted_models_first_then_local_ones():
    catalogue = load_catalogue()
    chosen = [catalogue.get(name) for name in catalogue.default]
    assert [model.provider for model in chosen if model] == [
        "openai",
        "mistral",
        "huggingface",
        "local",
        "local",
        "local",
    ]


def test_every_local_model_is_measured_by_cpu_time_and_has_weights_unless_a_package_brings_them():
    local = [model for model in load_catalogue().models if model.provider == "local"]
    assert [model.id for model in local if model.weights is None] == ["use-multilingual-v3"]
    assert {model.impact.method for model in local if model.impact} == {"cpu-time"}


def test_mistral_large_is_priced_at_its_list_price_with_a_source_and_a_date():
    model = load_catalogue().get("mistral-large-latest")
    assert model is not None
    assert isinstance(model.price, ListPrice)
    assert (model.price.input_per_mtok_usd, model.price.output_per_mtok_usd) == (0.5, 1.5)
    assert model.price.checked == date(2026, 11, 20)


def test_a_model_answers_to_its_id_and_its_aliases(tmp_path):
    catalogue = load(tmp_path, ONE_MODEL + "    aliases: [small]\n")
    assert catalogue.get("small") is catalogue.get("tiny")
    assert catalogue.get("large") is None


@pytest.mark.parametrize(
    ("addition", "line", "problem"),
    [
        ("    colour: blue\n", 7, "models.0.colour: Extra inputs are not permitted"),
        ("    aliases: [tiny]\n", 7, "models.0.aliases.0: 'tiny' names both 'tiny' and 'tiny'"),
        ("    wire_name: 3\n", 7, "models.0.wire_name"),
        ("    price: {provider: openai}\n", 7, "models.0.price.GenaiPrice.model: Field required"),
    ],
)
def test_a_wrong_model_is_refused_with_its_file_and_line(tmp_path, addition, line, problem):
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, ONE_MODEL + addition)
    assert f"{tmp_path / 'models.yaml'}:{line}: " in str(refusal.value)
    assert problem in str(refusal.value)


WEIGHTS = """\
    weights:
      filename: {filename}
      size_bytes: 5
      sha256: {sha256}
      licence: MIT
      source: https://example.org
      checked: 2026-11-20
      sources: [{{url: https://example.org/model.bin}}]
      companions:
        - {{filename: config.json, size_bytes: 2, sha256: {sha256}}}
        - {{filename: {companion}, size_bytes: 3, sha256: {sha256}}}
"""


def weights(filename: str = "tiny/model.bin", companion: str = "words.txt") -> str:
    return ONE_MODEL + WEIGHTS.format(filename=filename, companion=companion, sha256="a" * 64)


def test_weights_may_be_several_files_in_a_folder_of_their_own(tmp_path):
    model = load(tmp_path, weights()).get("tiny")
    assert model is not None
    assert model.weights is not None
    assert model.weights.total_bytes == 10


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (weights(filename="model.bin"), 8, "filename: files beside each other need a folder"),
        (weights(filename="../model.bin"), 8, "filename: String should match pattern"),
        (weights(filename="/model.bin"), 8, "filename: String should match pattern"),
        (weights(companion="a/words.txt"), 17, "companions.1.filename: String should match pattern"),
        (weights(companion="config.json"), 17, "companions.1.filename: 'config.json' is given twice"),
        (weights(companion="model.bin"), 17, "companions.1.filename: 'model.bin' is given twice"),
    ],
)
def test_files_that_would_leave_their_folder_or_meet_are_refused(tmp_path, text, line, problem):
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, text)
    assert f"{tmp_path / 'models.yaml'}:{line}: models.0.weights.{problem}" in str(refusal.value)


def test_an_alias_used_twice_is_refused_where_it_is_used_again(tmp_path):
    second = ONE_MODEL.partition("models:\n")[2].replace("id: tiny", "id: other") + "    aliases: [x, tiny]\n"
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, ONE_MODEL + second)
    assert f"{tmp_path / 'models.yaml'}:11: models.1.aliases.1: 'tiny' names both 'tiny' and 'other'" in str(
        refusal.value
    )


def test_a_default_that_is_not_in_the_catalogue_is_refused_at_its_line(tmp_path):
    text = ONE_MODEL.replace("default: [tiny]\n", "default:\n  - tiny\n  - huge\n")
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, text)
    assert f"{tmp_path / 'models.yaml'}:3: default.1: default names 'huge'" in str(refusal.value)


def test_every_problem_of_a_file_is_named_at_once(tmp_path):
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, ONE_MODEL + "    colour: blue\n    shape: round\n")
    assert [problem.split(": ")[1] for problem in str(refusal.value).splitlines()] == [
        "models.0.colour",
        "models.0.shape",
    ]


def test_a_file_that_is_not_yaml_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"models\.yaml: not valid YAML"):
        load(tmp_path, "models: [")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.yaml: cannot be read: No such file"):
        load_catalogue(tmp_path / "none.yaml")
