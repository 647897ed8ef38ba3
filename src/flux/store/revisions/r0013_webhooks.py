"""Runs ``sql/migrations/0013_webhooks.sql``."""

from flux.store import migrate

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    migrate.run_migration_file("0013_webhooks.sql")
