"""Who is calling, and what they may touch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller. `projects` is `None` when the credential does not restrict them."""

    subject: str
    scopes: frozenset[str] = frozenset()
    projects: frozenset[str] | None = None

    @property
    def owner(self) -> str:
        """Whose the principal's threads, projects and jobs are: its own, until principals can act for a team."""
        return self.subject
