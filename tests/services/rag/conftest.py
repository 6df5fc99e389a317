"""The real PostgreSQL these tests run on, and projects in it."""

from tests.postgres_for_tests import postgres, tmp_path
from tests.projects_for_tests import _migrated, door_of_migrated, house, migrated_url

__all__ = ["_migrated", "door_of_migrated", "house", "migrated_url", "postgres", "tmp_path"]
