"""Who is calling, and what they may touch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller. `projects` is `None` when the credential does not restrict them."""

    subject: str
    scopes: frozenset[str] = frozenset()
    projects: frozenset[str] | None = None
