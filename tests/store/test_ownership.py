"""Stops and leases in a real database."""

from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from flux.errors import NotFoundError
from flux.store import ownership

FIVE_MINUTES = timedelta(minutes=5)


@pytest.fixture
async def site(db: AsyncConnection[Any]) -> str:
    await db.execute("INSERT INTO flux.sites (site) VALUES ('WLCE')")
    return "WLCE"


async def test_a_stop_is_in_force_until_it_is_resumed(db: AsyncConnection[Any], site: str) -> None:
    assert await ownership.stop_in_force(db, site) is None
    first = await ownership.stop_site(db, site, actor="anna", reason="smoke")
    again = await ownership.stop_site(db, site, actor="ben")
    assert again == first
    assert (first.actor, first.reason) == ("anna", "smoke")
    await ownership.acknowledge_stop(db, site)
    stop = await ownership.stop_in_force(db, site)
    assert stop is not None
    assert stop.acknowledged_at is not None
    assert await ownership.resume_site(db, site, actor="ben")
    assert await ownership.stop_in_force(db, site) is None


async def test_a_resume_without_a_stop_is_kept_and_says_so(db: AsyncConnection[Any], site: str) -> None:
    assert await ownership.last_resumed_at(db, site) is None
    assert not await ownership.resume_site(db, site, actor="anna")
    first = await ownership.last_resumed_at(db, site)
    assert first is not None
    assert not await ownership.resume_site(db, site, actor="anna")
    second = await ownership.last_resumed_at(db, site)
    assert second is not None
    assert second > first


async def test_a_site_that_is_not_known_is_named(db: AsyncConnection[Any], site: str) -> None:
    with pytest.raises(NotFoundError, match="no site 'WLCF'; there is WLCE"):
        await ownership.stop_site(db, "WLCF", actor="anna")


async def test_a_stop_and_a_resume_are_announced(db: AsyncConnection[Any], site: str) -> None:
    await db.execute("LISTEN flux_registry")
    await ownership.stop_site(db, site, actor="anna")
    await ownership.resume_site(db, site, actor="anna")
    heard = [one.payload async for one in db.notifies(timeout=5, stop_after=2)]
    assert heard == ["site_stops", "site_stops"]


async def test_the_lease_has_one_holder(db: AsyncConnection[Any], site: str) -> None:
    first = await ownership.take_lease(db, site, holder="a", host="one", lasts=FIVE_MINUTES)
    assert (first.granted, first.token) == (True, 1)
    second = await ownership.take_lease(db, site, holder="b", host="two", lasts=FIVE_MINUTES)
    assert (second.granted, second.holder, second.host) == (False, "a", "one")
    renewed = await ownership.take_lease(db, site, holder="a", host="one", lasts=FIVE_MINUTES)
    assert renewed.granted
    assert renewed.token == 1
    assert renewed.expires_at > first.expires_at


async def test_a_lease_given_back_goes_to_the_next_under_a_new_token(db: AsyncConnection[Any], site: str) -> None:
    await ownership.take_lease(db, site, holder="a", host="one", lasts=FIVE_MINUTES)
    await ownership.release_lease(db, site, holder="b")  # not its own
    assert not (await ownership.take_lease(db, site, holder="b", host="two", lasts=FIVE_MINUTES)).granted
    await ownership.release_lease(db, site, holder="a")
    taken = await ownership.take_lease(db, site, holder="b", host="two", lasts=FIVE_MINUTES)
    assert (taken.granted, taken.token) == (True, 2)
    assert not (await ownership.take_lease(db, site, holder="a", host="one", lasts=FIVE_MINUTES)).granted


async def test_an_expired_lease_is_free_once_the_server_has_run_as_long(db: AsyncConnection[Any], site: str) -> None:
    await ownership.take_lease(db, site, holder="a", host="one", lasts=FIVE_MINUTES)
    await db.execute("UPDATE flux.control_leases SET expires_at = now() - interval '1 s'")
    cursor = await db.execute("SELECT now() - pg_postmaster_start_time()")
    row = await cursor.fetchone()
    assert row is not None
    longer, shorter = row[0] + timedelta(hours=1), row[0] / 2
    assert not (await ownership.take_lease(db, site, holder="b", host="two", lasts=longer)).granted
    assert (await ownership.take_lease(db, site, holder="b", host="two", lasts=shorter)).granted


async def test_there_is_no_lease_of_a_site_that_is_not_known(db: AsyncConnection[Any]) -> None:
    with pytest.raises(NotFoundError):
        await ownership.take_lease(db, "WLCF", holder="a", host="one", lasts=FIVE_MINUTES)
