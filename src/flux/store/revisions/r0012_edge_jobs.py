"""Runs ``sql/migrations/0012_edge_jobs.sql``."""

from flux.store import migrate

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    migrate.run_migration_file("0012_edge_jobs.sql")
