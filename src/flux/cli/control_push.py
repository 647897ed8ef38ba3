"""``flux control push`` and ``flux control withdraw``: a site's plan, from the platform."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flux.cli.shared import actor, opened_database, run_on_database

if TYPE_CHECKING:
    from flux.control.plan import ControllerPlan
    from flux.edge.link import RegistrySnapshot

SiteCode = Annotated[str, typer.Option("--site", help="The site's code, like WLCE.")]


def push(
    plan: Annotated[Path, typer.Argument(help="site.yaml, or a file with its controller section alone.")],
    site: SiteCode,
) -> None:
    """Give a site another plan, checked against its devices; its edge takes it up as it would a changed file.

    It goes before the controller section of the edge's site.yaml until `flux control withdraw`, also after a restart.

    Example: `flux control push plan.yaml --site WLCE`
    """
    from flux.control.ledger import plan_text
    from flux.store.site_plans import push_plan

    text = plan_text(checked_plan(plan, site))
    news = run_on_database(lambda conn: push_plan(conn, site, text, actor=actor()))
    typer.echo(f"{site}: plan {text.hash} {'is in force' if news else 'was in force already'}")


def withdraw(site: SiteCode) -> None:
    """Withdraw the plan that was pushed to a site: the controller section of its site.yaml counts again.

    Example: `flux control withdraw --site WLCE`
    """
    from flux.store.site_plans import withdraw_plan

    gone = run_on_database(lambda conn: withdraw_plan(conn, site))
    typer.echo(f"{site}: {'its site file counts again' if gone else 'no plan was pushed'}")


def checked_plan(path: Path, site: str) -> "ControllerPlan":
    """The plan of a file, checked by itself and against the devices of ``site`` in the registry."""
    from flux.config import load_yaml
    from flux.control.plan import parse_plan
    from flux.edge.plan_check import check_devices
    from flux.edge.templates import TemplateShelf

    document = load_yaml(path)
    plan = parse_plan(document)
    named = document.data.get("templates_dir") if isinstance(document.data, dict) else None
    folder = path.parent / named if isinstance(named, str) else None
    check_devices(document, plan, site, _snapshot(site), TemplateShelf(folder))
    return plan


def _snapshot(site: str) -> "RegistrySnapshot":
    import asyncio

    from flux.edge.sql_link import SqlLink

    async def read(dsn: str) -> "RegistrySnapshot":
        link = SqlLink(site, lambda: dsn)
        try:
            return await link.registry()
        finally:
            await link.close()

    with opened_database() as dsn:
        return asyncio.run(read(dsn))
