"""The real PostgreSQL these tests run on."""

from tests.postgres_for_tests import _made_cluster, data_dir, database_url, door, postgres, tmp_path

__all__ = ["_made_cluster", "data_dir", "database_url", "door", "postgres", "tmp_path"]
