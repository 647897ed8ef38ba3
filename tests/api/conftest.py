"""Live servers: one for a test, one for a module."""

from collections.abc import Iterator

import pytest
from tests.api.fleet import fill_fleet
from tests.api.live import LiveServer, live_server_on
from tests.conftest import fresh_database


@pytest.fixture
def live_server(dsn: str) -> Iterator[LiveServer]:
    """A server on the test's own database (the one of `dsn` and `db`)."""
    with live_server_on(dsn) as live:
        yield live


@pytest.fixture(scope="module")
def module_dsn(admin_dsn: str, template_database: str) -> Iterator[str]:
    """A fresh database that the tests of a module share."""
    yield from fresh_database(admin_dsn, template_database)


@pytest.fixture(scope="module")
def module_server(module_dsn: str) -> Iterator[LiveServer]:
    """A server on `module_dsn`, for suites that only read, or that write what does not get in each other's way."""
    with live_server_on(module_dsn) as live:
        yield live


@pytest.fixture(scope="module")
def fleet_server(module_dsn: str) -> Iterator[LiveServer]:
    """A server on `module_dsn` with the fleet in it."""
    fill_fleet(module_dsn)
    with live_server_on(module_dsn) as live:
        yield live
