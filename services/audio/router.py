"""The router of transcribers: one piece of a recording, heard by the first model that can.

Which model is asked, when again, and who stands in for it: `services/llm/failover.py`.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from config.catalogue import Catalogue, ModelEntry
from domain.audio import Heard
from domain.errors import ModelUnavailable, ProviderCut, ProviderError
from domain.usage import TokenUsage
from services.audio.transcribers.transcriber import Transcriber, TranscriptionCall
from services.llm.call_meter import NOTHING_WAS_SERVED
from services.llm.counting import Measured, counted_once
from services.llm.failover import RETRY_WAIT_S, Asked, Failover, Plan
from services.llm.health import Health, deployment_key


@dataclass(slots=True)
class AskedToHear(Asked):
    """A piece of a recording: an MP3 file of `audio_s` seconds. The rest is as in `TranscriptionCall`."""

    path: Path
    audio_s: float
    language: str | None = None
    prompt: str | None = None
    times: bool = False


class TranscriptionRouter(Failover[Transcriber, AskedToHear, Heard]):
    """Knows the catalogue's transcription models and who serves them."""

    def __init__(
        self,
        catalogue: Catalogue,
        transcribers: Mapping[str, Transcriber],
        *,
        default_model: str | None = None,
        health: Health | None = None,
        retry_wait_s: float = RETRY_WAIT_S,
    ) -> None:
        default = [*([default_model] if default_model else []), *catalogue.transcription]
        super().__init__(
            catalogue,
            transcribers,
            model_type="transcription",
            default=default,
            health=health,
            retry_wait_s=retry_wait_s,
        )

    async def hear(self, plan: Plan, asked: AskedToHear) -> Heard:
        """What is said in the piece; `asked.model` is then who heard it."""
        async with aclosing(self.stream(plan, asked)) as given:
            async for heard in given:
                return heard
        raise ProviderCut("nobody answered", retryable=True)

    async def _attempt(self, model: ModelEntry, asked: AskedToHear) -> AsyncGenerator[Heard]:
        credential = asked.credentials.get(model.provider)
        key = deployment_key(model, credential)
        call = TranscriptionCall(
            model=model,
            path=asked.path,
            audio_s=asked.audio_s,
            language=asked.language,
            prompt=asked.prompt if model.hears.prompt else None,
            times=asked.times,
            credential=credential,
        )
        transcriber = self._servers[model.provider]
        try:
            heard = await counted_once(model, transcriber.transcribe(call), asked.on_call, partial(_measured, call))
        except ProviderError as error:
            self._health.failed(key, error)
            raise
        self._health.succeeded(key)
        asked.model = model
        yield heard


def _measured(call: TranscriptionCall, failure: BaseException | None) -> Measured:
    """What was heard. A call that broke may be billed all the same: the whole piece, as an estimate."""
    if isinstance(failure, (*NOTHING_WAS_SERVED, ModelUnavailable)):
        return TokenUsage(0, 0, audio_s=0.0), False, call.local_work
    usage = call.usage or TokenUsage(None, None)
    billed_s = call.audio_s if usage.audio_s is None else usage.audio_s
    counted = TokenUsage(usage.input_tokens, usage.output_tokens, audio_s=billed_s)
    return counted, failure is not None and call.usage is None, call.local_work
