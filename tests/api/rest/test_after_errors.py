"""A statement that fails leaves nothing behind for the next request on the same connection."""

import pytest

from flux.api.identity import Identity, Role
from flux.api.rest.errors import ApiError
from flux.api.rest.execute import read_rows
from flux.api.rest.statements import Statement
from flux.store.db import open_pool

SOMEBODY = Identity(Role.SERVICE, claims={"role": "service"})


@pytest.mark.parametrize("bad", [1, 3, 4, 5])
async def test_good_requests_are_answered_between_bad_ones(fleet_dsn: str, bad: int) -> None:
    """In runs of each length, since statements are prepared when they come for the sixth time."""
    async with open_pool(fleet_dsn, application_name="test", max_size=1, timeout_s=5) as pool:
        for _ in range(5):
            for _ in range(bad):
                with pytest.raises(ApiError, match="invalid input syntax"):
                    await read_rows(pool, SOMEBODY, [Statement(b"SELECT $1::int", ["x"])], 5000)
            for _ in range(bad):
                assert await read_rows(pool, SOMEBODY, [Statement(b"SELECT 'good'", [])], 5000) == [(b"good",)]
