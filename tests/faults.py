"""What a provider may do wrong, as scripts: what each fault is called, how often it is tried, what it consumed."""

from dataclasses import dataclass
from typing import Literal

from tests.scripted_provider import Chunk, ContentType, Cut, Stall, Status, Step, chunk, say

Spent = Literal["nothing", "its prompt"]


@dataclass(frozen=True, slots=True)
class Fault:
    """`attempts` are those of a candidate that has a stand-in, `attempts_alone` those of one that has none.

    `spoke` says that text came before the fault. `lasts` that nothing ends it but a limit on time.
    """

    name: str
    script: tuple[Step, ...]
    code: str
    reason: str
    attempts: int = 2
    attempts_alone: int = 3
    spent: Spent = "its prompt"
    spoke: bool = False
    lasts: bool = False
    status: int = 502

    def __str__(self) -> str:
        return self.name


def _refused(
    said: int, code: str = "provider_refused", *, attempts: int = 2, alone: int = 3, status: int = 502
) -> Fault:
    script = (Status(said, {"error": {"message": "no"}}),)
    return Fault(str(said), script, code, str(said), attempts, alone, spent="nothing", status=status)


def _broken(name: str, *script: Step, reason: str, spoke: bool = False) -> Fault:
    return Fault(name, script, "provider_cut", reason, spoke=spoke)


def _silent(name: str, *script: Step, spoke: bool = False) -> Fault:
    return Fault(name, script, "provider_stalled", "sent nothing for", 1, 1, spoke=spoke, lasts=True, status=504)


GARBAGE = Chunk(b"data: {oops\n\n")
HALF_AN_ANSWER = Chunk(b'data: {"choices": [{"index": 0, "delta": {"content": "Half"}, "finish_reason": null}]}\n\n')
HALF_A_JSON = Chunk(b'data: {"choices": [{"index": 0, "delta": {"cont')
USED_UP = Status(429, {"error": {"message": "no", "type": "insufficient_quota", "code": "insufficient_quota"}})
FAULTS = (
    _refused(401, attempts=1, alone=1),
    _refused(402, "insufficient_quota", attempts=1, alone=1, status=429),
    _refused(404, "model_not_served", attempts=1, alone=1, status=404),
    _refused(408, attempts=1),
    _refused(429, "rate_limited_by_provider", attempts=1, status=429),
    Fault("a used-up quota", (USED_UP,), "insufficient_quota", "billing", 1, 1, spent="nothing", status=429),
    _refused(500),
    _refused(503),
    _silent("a stall before the first token", *say(), Stall()),
    _silent("a stall with comments", *say(), Stall(comments=True)),
    _silent("a stall after the first token", *say("Half"), Stall(), spoke=True),
    _broken("garbage before the first token", *say(), GARBAGE, reason="not JSON"),
    _broken("garbage after the first token", *say("Half"), GARBAGE, reason="not JSON", spoke=True),
    _broken("a cut at once", Cut(), reason="broke the connection"),
    _broken("a cut before the first token", *say(), Cut(), reason=""),
    _broken("a cut after the first token", *say("Half"), Cut(), reason="", spoke=True),
    _broken("an end before the first token", *say(), reason="without a finish reason"),
    _broken("an end after the first token", HALF_AN_ANSWER, reason="without a finish reason", spoke=True),
    _broken("another content type", ContentType("text/html"), Chunk(b"<html>busy</html>"), reason=""),
    _broken("half a JSON", HALF_A_JSON, reason=""),
    _broken("half a JSON after the first token", *say("Half"), HALF_A_JSON, reason="", spoke=True),
    _broken("an error with 200", Chunk({"error": {"message": "overloaded"}}), reason="overloaded"),
    _broken("an error after the first token", *say("Half"), Chunk({"error": "late"}), reason="late", spoke=True),
    _broken("the reason of a failure", *say("Half"), chunk({}, "error"), reason="could not finish", spoke=True),
)
