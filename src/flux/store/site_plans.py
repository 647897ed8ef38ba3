"""Plans that were pushed to sites: at most one of a site is in force, the others are history."""

from typing import Any

from psycopg import AsyncConnection

from flux.control.ledger import PlanText
from flux.store.dispatch import check_site


async def push_plan(conn: AsyncConnection[Any], site: str, plan: PlanText, *, actor: str) -> bool:
    """Put ``plan`` in force at ``site``; False: it was already. NotFoundError for a site that is not known."""
    await check_site(conn, site)
    async with conn.transaction():
        await conn.execute("SELECT FROM flux.sites WHERE site = %s FOR NO KEY UPDATE", (site,))
        cursor = await conn.execute(
            "SELECT FROM flux.site_plans WHERE site = %s AND hash = %s AND withdrawn_at IS NULL", (site, plan.hash)
        )
        if await cursor.fetchone() is not None:
            return False
        await _withdraw(conn, site)
        await conn.execute(
            "INSERT INTO flux.site_plans (site, hash, body, actor) VALUES (%s, %s, %s::jsonb, %s)",
            (site, plan.hash, plan.body, actor),
        )
    return True


async def withdraw_plan(conn: AsyncConnection[Any], site: str) -> bool:
    """Let the site's own file count again; False: nothing was pushed. NotFoundError for a site that is not known."""
    await check_site(conn, site)
    return await _withdraw(conn, site) > 0


async def _withdraw(conn: AsyncConnection[Any], site: str) -> int:
    cursor = await conn.execute(
        "UPDATE flux.site_plans SET withdrawn_at = greatest(clock_timestamp(), pushed_at)"
        " WHERE site = %s AND withdrawn_at IS NULL",
        (site,),
    )
    return cursor.rowcount
