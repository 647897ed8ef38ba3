"""Runs ``sql/migrations/0006_rollups_and_quality.sql``."""

from flux.store import migrate

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    migrate.run_migration_file("0006_rollups_and_quality.sql")
