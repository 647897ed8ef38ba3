"""Runs ``sql/migrations/0002_readings.sql``."""

from flux.store import migrate

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    migrate.run_migration_file("0002_readings.sql")
