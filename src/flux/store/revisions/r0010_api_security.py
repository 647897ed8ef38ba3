"""Runs ``sql/migrations/0010_api_security.sql``."""

from flux.store import migrate

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    migrate.run_migration_file("0010_api_security.sql")
