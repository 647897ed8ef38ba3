"""Runs ``sql/migrations/0003_decisions.sql``."""

from flux.store import migrate

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    migrate.run_migration_file("0003_decisions.sql")
