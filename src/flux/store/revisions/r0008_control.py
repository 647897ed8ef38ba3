"""Runs ``sql/migrations/0008_control.sql``."""

from flux.store import migrate

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    migrate.run_migration_file("0008_control.sql")
