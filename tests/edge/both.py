"""Both adapters of the platform link on one real platform, so that the same tests run on each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.api.live import live_server_on

from flux.edge.https_link import HttpsLink
from flux.edge.link import PlatformLink
from flux.edge.sql_link import SqlLink

ADAPTERS = ("sql", "https")
MOSTLY_SQL = ("sql", pytest.param("https", marks=pytest.mark.long))
"""For what is about the edge and takes seconds: by HTTPS in the long suite."""

MakeLink = Callable[[str], PlatformLink]


@contextmanager
def links(adapter: str, dsn: str) -> Iterator[MakeLink]:
    """What makes a link of that kind for a site, on the database of ``dsn``."""
    if adapter == "sql":
        yield lambda site: SqlLink(site, lambda: dsn)
        return
    with live_server_on(dsn) as live:
        yield lambda site: HttpsLink(site, live.url, lambda: live.key("edge", [site]))
