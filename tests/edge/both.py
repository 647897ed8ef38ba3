"""Both adapters of the platform link on one real platform, so that the same tests run on each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from tests.api.live import live_server_on

from flux.edge.https_link import HttpsLink
from flux.edge.link import PlatformLink
from flux.edge.sql_link import SqlLink

ADAPTERS = ("sql", "https")

MakeLink = Callable[[str], PlatformLink]

_STAND_IN = """
    DO $do$ BEGIN
        IF to_regprocedure('flux.check_key(uuid)') IS NULL THEN
            CREATE FUNCTION flux.check_key(key_id uuid) RETURNS void LANGUAGE sql AS '';
        END IF;
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'flux_server') THEN
            CREATE ROLE flux_server SUPERUSER;
        END IF;
    END $do$
"""


@contextmanager
def links(adapter: str, dsn: str) -> Iterator[MakeLink]:
    """What makes a link of that kind for a site, on the database of ``dsn``."""
    if adapter == "sql":
        yield lambda site: SqlLink(site, lambda: dsn)
        return
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(_STAND_IN)
    with live_server_on(dsn) as live:
        yield lambda site: HttpsLink(site, live.url, lambda: live.key("edge", [site]))
