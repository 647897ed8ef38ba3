"""Runs ``sql/migrations/0014_jobs_are_kept.sql``."""

from flux.store import migrate

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    migrate.run_migration_file("0014_jobs_are_kept.sql")
