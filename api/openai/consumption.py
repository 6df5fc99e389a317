"""What a chat completion consumed, as OpenAI's `usage` and as our `impact`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from api.native_format import interrupt_of, source_of
from domain.reports import Report
from domain.runs import Finished, RunRequest
from services.accounting.accountant import Accountant
from services.accounting.metadata import report_metadata, usage_by_model


@dataclass(slots=True)
class Consumption:
    """Gathers the ends of the runs behind one answer: one a choice."""

    request: RunRequest
    accountant: Accountant
    finished: list[Finished] = field(default_factory=list)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What a provider told of itself (Spark): `version`, `domain`, `question_tokens`."""

    def report(self) -> Report:
        """One report of all the calls; the choices ran side by side, so that the slowest is how long it took."""
        if len(self.finished) == 1:
            return self.finished[0].report
        reports = [end.report for end in self.finished]
        first = [report.time_to_first_token_s for report in reports if report.time_to_first_token_s is not None]
        return self.accountant.report(
            [call for report in reports for call in report.calls],
            latency_s=max(report.latency_s for report in reports),
            time_to_first_token_s=min(first, default=None),
        )

    def usage(self, report: Report) -> dict[str, Any] | None:
        """OpenAI's `usage`; `None` where the tokens are not known, for its fields are numbers."""
        usage = report.usage
        if usage.total_tokens is None:
            return None
        content: dict[str, Any] = {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }
        if usage.cache_read_tokens is not None:
            content["prompt_tokens_details"] = {"cached_tokens": usage.cache_read_tokens}
        if usage.reasoning_tokens is not None:
            content["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
        if self.extra.get("question_tokens") is not None:
            content["question_tokens"] = self.extra["question_tokens"]
        return content

    def told_by_provider(self) -> dict[str, Any]:
        """What stands at the top of the answer beside OpenAI's own fields."""
        return {name: self.extra[name] for name in ("version", "domain") if self.extra.get(name) is not None}

    def impact(self, report: Report) -> dict[str, Any]:
        """Price, emissions and what they were computed from; `None` where a figure is not known."""
        figures = impact_figures(report)
        run_ids = [str(end.run_id) for end in self.finished]
        return {
            **figures,
            "model": self.finished[0].model,
            "requested_model": self.request.model,
            "agent": self.request.agent,
            "fallbacks": _fallbacks(self.finished),
            "sources": [source_of(passage) for end in self.finished for passage in end.sources],
            "interrupt": interrupt_of(self.finished[0].interrupts),
            "warnings": [*figures["warnings"], *[warning for end in self.finished for warning in end.warnings]],
            "thread_id": self.request.thread_id,
            "run_id": run_ids[0],
            "run_ids": run_ids,
            "request_id": self.request.request_id,
        }


def impact_figures(report: Report) -> dict[str, Any]:
    """The figures that every `impact` has, of chats and of embeddings."""
    metadata = report_metadata(report)
    return {
        "cost_eur": report.price.total_eur,
        "pricing": metadata["pricing"],
        **metadata["impact"],
        "equivalences": metadata["equivalences"],
        "latency_s": metadata["latency_s"],
        "time_to_first_token_s": metadata["time_to_first_token_s"],
        "usage_by_model": usage_by_model(report),
    }


def _fallbacks(finished: Sequence[Finished]) -> list[dict[str, str]]:
    hops = dict.fromkeys(hop for end in finished for hop in end.fallbacks)
    return [{"model": hop.model, "reason": hop.reason} for hop in hops]
