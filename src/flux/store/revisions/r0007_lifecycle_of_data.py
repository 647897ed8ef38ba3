"""Runs ``sql/migrations/0007_lifecycle_of_data.sql``."""

from flux.store import migrate

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    migrate.run_migration_file("0007_lifecycle_of_data.sql")
