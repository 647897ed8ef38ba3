"""Runs ``sql/migrations/0009_registry.sql``."""

from flux.store import migrate

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    migrate.run_migration_file("0009_registry.sql")
