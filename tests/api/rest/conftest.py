"""`rest`: the application over the fleet, for tests that only read."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from tests.api.fleet import fill_fleet
from tests.api.rest.kit import Rest, rest_on

from flux.store.gateway import gateway_dsn as make_gateway_dsn


@pytest.fixture(scope="module")
def fleet_dsn(module_dsn: str) -> str:
    """A database with the fleet in it, a superuser's DSN."""
    fill_fleet(module_dsn)
    return module_dsn


@pytest.fixture(scope="module")
def fleet_gateway(fleet_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The DSN of the API's login in it."""
    folder: Path = tmp_path_factory.mktemp("gateway")
    return make_gateway_dsn(fleet_dsn, folder)


@pytest.fixture
async def rest(fleet_gateway: str) -> AsyncIterator[Rest]:
    async with rest_on(fleet_gateway) as app:
        yield app


@pytest.fixture
def plain(fleet_dsn: str) -> Iterator[Connection[Any]]:
    """The same database behind the API's back."""
    with psycopg.connect(fleet_dsn, autocommit=True, options="-c TimeZone=UTC") as connection:
        yield connection
