"""Runs ``sql/migrations/0005_market.sql``."""

from flux.store import migrate

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    migrate.run_migration_file("0005_market.sql")
