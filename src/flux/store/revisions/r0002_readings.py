"""Runs ``sql/migrations/0002_readings.sql``."""

from flux.store.migrate import run_migration_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_migration_file("0002_readings.sql")
