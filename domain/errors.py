"""Every error the server can answer with: its code, its HTTP status and a message safe to show.

RouteurError
├── BadRequest (400)
│   ├── InvalidParameter        one field of the request, by its name
│   ├── UnknownAgent
│   ├── UnknownModel
│   ├── NotSupportedYet
│   ├── ContextOverflow
│   ├── ContentFiltered         the provider's audit refused the question or the answer
│   └── FetchRefused            an address that the caller gave was not fetched
├── Unauthorized (401)
├── Forbidden (403)
├── NotFound (404)
├── RequestTimeout (408)       its sender was too slow
├── Conflict (409)
│   ├── ThreadBusy              another run of the thread is going on
│   ├── ThreadWaits             the thread waits for `resume`
│   └── ThreadAnswered          the thread waits for nothing any more: it was answered
├── PayloadTooLarge (413)
├── TooManyJobs (429)          the caller has as many unfinished as one may have
├── UnsupportedMedia (415)
├── HeadersTooLarge (431)
├── ProviderError (502)
│   ├── ProviderRefused        the provider answered with an error status
│   │   ├── CredentialRefused (401)     it does not know the credential that the caller sent
│   │   ├── CredentialNotAllowed (403)  it knows it, and grants it nothing here
│   │   ├── InsufficientQuota (429)     the server's account there has nothing left
│   │   └── ModelNotServed (404)        it serves no such model, or no longer
│   ├── ProviderUnreachable    no connection
│   ├── ProviderCut            the answer ended or broke before its finish reason
│   ├── ProviderStalled (504)  nothing came for too long
│   └── RateLimitedByProvider (429)
├── ModelUnavailable (503)     nothing configured can serve this model now
├── AgentUnavailable (503)
├── AgentFailed (500)          the agent's own code raised
├── DatabaseUnavailable (503)  what was asked needs the database, and it is down
├── StorageFull (507)
├── ShuttingDown (503)
├── TooManyConnections (503)
├── RunTimeout (504)
└── InternalError (500)

ConfigurationError stops the start; it is never an HTTP answer.
"""

from typing import ClassVar


class RouteurError(Exception):
    """What happened, with the value, and what would work. `message` is safe to show to a caller."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(RouteurError):
    code = "bad_request"
    status = 400


class InvalidParameter(BadRequest):
    """`param` is the field's name as the caller wrote it: `messages.2.content`."""

    code = "invalid_parameter"

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"{param}: {problem}")
        self.param = param


class UnknownAgent(BadRequest):
    code = "unknown_agent"


class UnknownModel(BadRequest):
    code = "unknown_model"


class NotSupportedYet(BadRequest):
    code = "not_supported_yet"


class ContextOverflow(BadRequest):
    code = "context_overflow"


class ContentFiltered(BadRequest):
    code = "content_filter"


class FetchRefused(BadRequest):
    code = "fetch_refused"


class Unauthorized(RouteurError):
    code = "unauthorized"
    status = 401


class Forbidden(RouteurError):
    code = "forbidden"
    status = 403


class NotFound(RouteurError):
    code = "not_found"
    status = 404


class RequestTimeout(RouteurError):
    code = "request_timeout"
    status = 408


class Conflict(RouteurError):
    code = "conflict"
    status = 409


class ThreadBusy(Conflict):
    code = "thread_busy"


class ThreadWaits(Conflict):
    code = "thread_waits"


class ThreadAnswered(Conflict):
    code = "thread_answered"


class PayloadTooLarge(RouteurError):
    code = "payload_too_large"
    status = 413


class TooManyJobs(RouteurError):
    code = "too_many_jobs"
    status = 429


class UnsupportedMedia(RouteurError):
    code = "unsupported_media_type"
    status = 415


class HeadersTooLarge(RouteurError):
    code = "headers_too_large"
    status = 431


class ProviderError(RouteurError):
    """A provider failed. `retryable` says whether the same call may succeed later or elsewhere.

    `upstream_status` is the provider's HTTP status (`None` when there was none);
    `retry_after_s` is what the provider asked for, in seconds.
    """

    code = "provider_error"
    status = 502

    def __init__(
        self,
        message: str,
        *,
        retryable: bool,
        upstream_status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.upstream_status = upstream_status
        self.retry_after_s = retry_after_s


class ProviderRefused(ProviderError):
    code = "provider_refused"


class CredentialRefused(ProviderRefused):
    """Only for a credential of the caller's own: the server's is the operator's matter, and `ProviderRefused`."""

    code = "credential_refused"
    status = 401


class CredentialNotAllowed(ProviderRefused):
    """Only for a credential of the caller's own, as `CredentialRefused`."""

    code = "credential_not_allowed"
    status = 403


class ModelNotServed(ProviderRefused):
    code = "model_not_served"
    status = 404


class InsufficientQuota(ProviderRefused):
    """The status is OpenAI's own for it; unlike `RateLimitedByProvider`, waiting does not help."""

    code = "insufficient_quota"
    status = 429

    def __init__(self, message: str, *, upstream_status: int) -> None:
        super().__init__(message, retryable=False, upstream_status=upstream_status)


class ProviderUnreachable(ProviderError):
    code = "provider_unreachable"


class ProviderCut(ProviderError):
    code = "provider_cut"


class ProviderStalled(ProviderError):
    code = "provider_stalled"
    status = 504


class RateLimitedByProvider(ProviderError):
    """The provider's own limit: passed on with its Retry-After, so that the caller waits as long as it must."""

    code = "rate_limited_by_provider"
    status = 429

    def __init__(self, message: str, *, retry_after_s: float | None) -> None:
        super().__init__(message, retryable=True, upstream_status=429, retry_after_s=retry_after_s)


class ModelUnavailable(RouteurError):
    code = "model_unavailable"
    status = 503


class AgentUnavailable(RouteurError):
    code = "agent_unavailable"
    status = 503


class AgentFailed(RouteurError):
    code = "agent_failed"
    status = 500


class DatabaseUnavailable(RouteurError):
    code = "database_unavailable"
    status = 503


class StorageFull(RouteurError):
    code = "storage_full"
    status = 507


class ShuttingDown(RouteurError):
    code = "shutting_down"
    status = 503


class TooManyConnections(RouteurError):
    code = "too_many_connections"
    status = 503


class RunTimeout(RouteurError):
    code = "run_timeout"
    status = 504


class InternalError(RouteurError):
    code = "internal_error"
    status = 500


class ConfigurationError(Exception):
    """The server cannot start so configured; the message names the setting or the file and line."""
