"""A pool that does not ask a connection each time whether it is alive."""

import psycopg
import pytest

from flux.store.db import open_pool

_END_OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pool under test'"


async def test_a_connection_that_was_just_in_use_is_not_asked(dsn: str) -> None:
    """Should it be dead, that shows once; the next one is another."""
    async with open_pool(dsn, application_name="pool under test", max_size=1, check_after_s=3600) as pool:
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute(_END_OTHERS)
        with pytest.raises(psycopg.OperationalError):
            async with pool.connection() as conn:
                await conn.execute("SELECT 1")
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")


async def test_one_that_rested_is_asked(dsn: str) -> None:
    async with open_pool(dsn, application_name="pool under test", max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute(_END_OTHERS)
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
