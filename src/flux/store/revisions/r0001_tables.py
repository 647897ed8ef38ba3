"""Runs ``sql/migrations/0001_tables.sql``."""

from flux.store import migrate

revision = "0001"
down_revision = None


def upgrade() -> None:
    migrate.run_migration_file("0001_tables.sql")
