"""Runs ``sql/migrations/0008_import_and_gaps.sql``."""

from flux.store import migrate

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    migrate.run_migration_file("0008_import_and_gaps.sql")
