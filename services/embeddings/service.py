"""The one way to embeddings: from a model's name and texts to vectors, each call counted once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from config.catalogue import Catalogue, ModelEntry
from domain.errors import BadRequest, ContextOverflow, ModelUnavailable, UnknownModel
from domain.usage import Call, TokenUsage
from services.embeddings.embedder import BatchLimits, Embedder, EmbeddingCall, Vector
from services.llm.call_meter import CHARS_PER_TOKEN, NOTHING_WAS_SERVED
from services.llm.counting import Measured, counted_once


@dataclass(frozen=True, slots=True)
class EmbeddingLimits:
    """How much one request may hold."""

    max_texts: int = 2_048
    """OpenAI's own bound, which its clients know."""
    max_text_chars: int = 100_000
    """More than any model of the catalogue reads: what is longer is refused before it is sent or tokenized."""
    max_chars: int = 2_000_000


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """What every door makes of its own format. `dimensions` asks for shorter vectors, where the model can."""

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingAnswer:
    """One vector a text, in their order; `model` is the id that answered, `calls` what it took."""

    model: str
    vectors: list[Vector]
    calls: tuple[Call, ...]


def _nobody(_: Call) -> None:
    pass


class EmbeddingService:
    """Knows the catalogue and the embedders, by the name of their provider."""

    def __init__(
        self, catalogue: Catalogue, embedders: Mapping[str, Embedder], limits: EmbeddingLimits | None = None
    ) -> None:
        self._catalogue = catalogue
        self._embedders = embedders
        self._limits = limits or EmbeddingLimits()

    def unavailable_reason(self, model: ModelEntry) -> str | None:
        """Why nothing can serve this model now; `None` when something can."""
        embedder = self._embedders.get(model.provider)
        if embedder is None:
            return f"the provider {model.provider!r} gives no embeddings"
        return embedder.unavailable_reason(model)

    def resolve(self, name: str) -> ModelEntry:
        """The embedding model that serves this name now. Raises when none can.

        No other model stands in when a call fails: vectors of two models do not compare.
        """
        candidates = [model for model in self._catalogue.candidates(name) if model.type == "embedding"]
        if not candidates:
            known = ", ".join(model.id for model in self._catalogue.models if model.type == "embedding")
            raise UnknownModel(f"unknown embedding model {name!r}; known embedding models: {known}")
        reasons = []
        for model in candidates:
            reason = self.unavailable_reason(model)
            if reason is None:
                return model
            reasons.append(reason)
        raise ModelUnavailable(f"model {name!r} cannot serve now: {'; '.join(reasons)}")

    async def embed(self, request: EmbeddingRequest, on_call: Callable[[Call], None] = _nobody) -> EmbeddingAnswer:
        """The vectors of a request, in as many calls as the provider needs.

        `on_call` is told of each call as it ends, also of a failed or cancelled one, which no answer can name.
        """
        model = self.resolve(request.model)
        _check(request, model, self._limits)
        embedder = self._embedders[model.provider]
        vectors: list[Vector] = []
        calls: list[Call] = []

        def count(call: Call) -> None:
            calls.append(call)
            on_call(call)

        for texts in _batches(request.texts, embedder.batch):
            call = EmbeddingCall(model, texts, request.dimensions)
            vectors += await counted_once(model, embedder.embed(call), count, partial(_measured, call))
        return EmbeddingAnswer(model.id, vectors, tuple(calls))


def _measured(call: EmbeddingCall, failure: BaseException | None) -> Measured:
    """What was read. An embedding writes nothing, which is known."""
    if isinstance(failure, (*NOTHING_WAS_SERVED, ModelUnavailable)):
        return TokenUsage(0, 0), False, call.local_work
    if call.input_tokens is not None:
        return TokenUsage(call.input_tokens, 0), False, call.local_work
    return TokenUsage(sum(max(1, len(text) // CHARS_PER_TOKEN) for text in call.texts), 0), True, call.local_work


def _check(request: EmbeddingRequest, model: ModelEntry, limits: EmbeddingLimits) -> None:
    """Raises `BadRequest` for what no model could serve, before anything is sent."""
    if not request.texts:
        raise BadRequest("there is nothing to embed: give at least one text")
    if len(request.texts) > limits.max_texts:
        raise BadRequest(f"{len(request.texts)} texts are too many: give {limits.max_texts} at most in one request")
    for place, text in enumerate(request.texts):
        if not text.strip():
            raise BadRequest(f"text {place} is empty: leave it out")
        if len(text) > limits.max_text_chars:
            problem = f"text {place} has {len(text)} characters, over {limits.max_text_chars}: cut it into passages"
            raise ContextOverflow(problem)
        if not _is_unicode(text):
            raise BadRequest(f"text {place} holds half of a surrogate pair, which is no character")
    if (chars := sum(map(len, request.texts))) > limits.max_chars:
        raise BadRequest(f"{chars} characters are too many: give {limits.max_chars} at most in one request")
    _check_dimensions(request.dimensions, model)


def _check_dimensions(dimensions: int | None, model: ModelEntry) -> None:
    if dimensions is None:
        return
    if not model.capabilities.dimensions:
        raise BadRequest(f"the vectors of {model.id!r} have one length ({model.dimensions}): leave out `dimensions`")
    if dimensions < 1 or (model.dimensions is not None and dimensions > model.dimensions):
        raise BadRequest(f"dimensions={dimensions!r}: {model.id!r} gives 1 to {model.dimensions}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _batches(texts: Sequence[str], limits: BatchLimits) -> Iterator[Sequence[str]]:
    """The texts in order, cut into calls."""
    batch: list[str] = []
    chars = 0
    for text in texts:
        if batch and (len(batch) == limits.max_texts or chars + len(text) > limits.max_chars):
            yield batch
            batch, chars = [], 0
        batch.append(text)
        chars += len(text)
    if batch:
        yield batch
