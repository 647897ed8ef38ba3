"""Runs ``sql/migrations/0001_tables.sql``."""

from flux.store.migrate import run_migration_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_migration_file("0001_tables.sql")
