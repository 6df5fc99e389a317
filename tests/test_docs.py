"""The guides' snippets hold: what they tell an operator to write is accepted, and does what they say."""

import re
from pathlib import Path

import yaml

from config.catalogue import MODELS_YAML, Catalogue

DOCS = Path(__file__).parent.parent / "docs"


def yaml_blocks(guide: str) -> list[dict[str, list[object]]]:
    found = re.findall(r"^```yaml\n(.*?)^```", (DOCS / guide).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in found]


def test_the_models_guide_adds_a_server_a_model_and_a_route_to_the_shipped_catalogue() -> None:
    content = yaml.safe_load(MODELS_YAML.read_text(encoding="utf-8"))
    for block in yaml_blocks("models.md"):
        for section, entries in block.items():
            content[section] = [*(content.get(section) or []), *entries]
    catalogue = Catalogue.model_validate(content)
    assert catalogue.get("qwen3-8b").provider == "ollama"
    assert catalogue.get("qwen3-8b").name_on_wire == "qwen3:8b"
    assert [model.id for model in catalogue.candidates("fast")][:2] == ["gpt-4o-mini", "mistral-small-latest"]


def test_links_between_the_documents_lead_somewhere() -> None:
    root = DOCS.parent
    for document in [*root.glob("*.md"), *DOCS.rglob("*.md"), root / "benchmarks" / "README.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
