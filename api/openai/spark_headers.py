"""The caller's own iFlytek credentials: three headers, in every spelling that callers and proxies use."""

from collections.abc import Iterable
from itertools import product

from pydantic import SecretStr

from domain.errors import BadRequest
from services.llm.providers.spark_auth import SparkCredentials

NAMES = ("X_APP_ID", "X_API_SECRET", "X_API_KEY")
SPELLINGS = {
    f"x{first}{words[0]}{second}{words[1]}".lower().encode(): name
    for name in NAMES
    for words in [name.split("_")[1:]]
    for first, second in product("_-", repeat=2)
}
"""Header names as they arrive, in lower case. Some servers in front drop those with underscores."""


def spark_credentials(headers: Iterable[tuple[bytes, bytes]], *, needed: bool) -> SparkCredentials | None:
    """The three headers' credentials; `None` without them. Some of three are an error where Spark is asked (`needed`).

    Elsewhere they are passed over: X-API-KEY alone is many a gateway's own.
    """
    ours = [(SPELLINGS[name], value.decode("latin-1").strip()) for name, value in headers if name in SPELLINGS]
    sent = {name: value for name, value in ours if value}
    if not sent:
        return None
    if missing := [name for name in NAMES if name not in sent]:
        if not needed:
            return None
        raise BadRequest(f"the header {missing[0]} is missing: send {', '.join(NAMES)} together, or none of them")
    return SparkCredentials(sent["X_APP_ID"], SecretStr(sent["X_API_SECRET"]), SecretStr(sent["X_API_KEY"]))
