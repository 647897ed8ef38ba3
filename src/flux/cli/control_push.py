"""``flux control push`` and ``flux control withdraw``: a site's plan, from the platform."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flux.cli.platform import body, platform
from flux.cli.shared import opened_database
from flux.errors import InputError

if TYPE_CHECKING:
    from flux.config import YamlDocument
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
    from flux.api.typed import control
    from flux.config import load_yaml

    document = load_yaml(plan)
    own = {name: file.read_text(encoding="utf-8") for name, file in _own_templates(document, plan).items()}
    text = plan.read_text(encoding="utf-8")
    given = body(control.PlanFile, text=text, file=str(plan), templates=own)
    with platform() as there:
        done = there.call(control.push_plan, site=site, body=given)
    typer.echo(f"{site}: plan {done.hash} {'is in force' if done.news else 'was in force already'}")


def withdraw(site: SiteCode) -> None:
    """Withdraw the plan that was pushed to a site: the controller section of its site.yaml counts again.

    Example: `flux control withdraw --site WLCE`
    """
    from flux.api.typed import control

    with platform() as there:
        gone = there.call(control.withdraw_plan, site=site).count
    typer.echo(f"{site}: {'its site file counts again' if gone else 'no plan was pushed'}")


def checked_plan(path: Path, site: str) -> "ControllerPlan":
    """The plan of a file, checked by itself and against the devices of ``site`` in the registry."""
    from flux.config import load_yaml
    from flux.control.plan import parse_plan
    from flux.edge.plan_check import check_devices
    from flux.edge.templates import TemplateShelf

    document = load_yaml(path)
    plan = parse_plan(document)
    check_devices(document, plan, site, _snapshot(site), TemplateShelf(_templates_dir(document, path)))
    return plan


def _templates_dir(document: "YamlDocument", path: Path) -> Path | None:
    """The folder of templates that a site file names."""
    named = document.data.get("templates_dir") if isinstance(document.data, dict) else None
    return path.parent / named if isinstance(named, str) else None


def _own_templates(document: "YamlDocument", path: Path) -> dict[str, Path]:
    """The files of the site's own templates, by name; each is checked. InputError where the folder is none."""
    from flux.devices.template import load_template

    folder = _templates_dir(document, path)
    if folder is None:
        return {}
    if not folder.is_dir():
        raise InputError(f"templates_dir {folder}: is not a folder")
    return {load_template(file).name: file for file in sorted(folder.glob("*.yaml"))}


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
