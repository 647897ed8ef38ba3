"""Runs ``sql/migrations/0011_realtime.sql``."""

from flux.store import migrate

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    migrate.run_migration_file("0011_realtime.sql")
