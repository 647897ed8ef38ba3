"""Runs ``sql/migrations/0004_control_ownership.sql``."""

from flux.store import migrate

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    migrate.run_migration_file("0004_control_ownership.sql")
