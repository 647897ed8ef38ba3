"""``flux alerts``: what somebody should know, and who is told."""

from typing import TYPE_CHECKING, Annotated

import typer

from flux.cli.platform import need_database, platform
from flux.cli.shared import print_table
from flux.errors import InputError

if TYPE_CHECKING:
    from flux.registry.notify import NotificationConfig

app = typer.Typer(no_args_is_help=True, help="What somebody should know, and who is told of it.")


@app.command("list")
def list_(
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    since: Annotated[str | None, typer.Option(help="Those that are over as well, back to e.g. 24h ago.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the open alerts, newest first.

    Example: `flux alerts list --site WLCE --since 24h`
    """
    import dataclasses
    import json
    from datetime import UTC, datetime

    from flux.api.typed import health
    from flux.model import parse_duration

    now = datetime.now(UTC)
    try:
        start = now - parse_duration(since) if since else None
    except ValueError as error:
        raise InputError(f"--since: {error}") from None

    with platform() as there:
        alerts = there.call(health.list_alerts, site=site, since=start)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(alert) for alert in alerts], indent=1, default=str))
        return
    if not alerts:
        typer.echo("no alerts")
        return
    columns = ("severity", "site", "text", "raised_at", "cleared_at", "times")
    print_table([{column: getattr(alert, column) for column in columns} for alert in alerts])


@app.command()
def routes() -> None:
    """List who is told of alerts; the URLs, which are secrets, are not shown."""
    print_table(
        [
            {
                "route": route.name,
                "from severity": str(route.severity),
                "sites": ", ".join(route.sites) if route.sites else "all",
                "url": f"from {route.url_env}" if route.url_env else "in the file",
            }
            for route in _config().routes
        ]
    )


@app.command("test")
def send_test(route: Annotated[str | None, typer.Argument(help="Only this route.")] = None) -> None:
    """Send a test notification on every route; exit code 6 when one did not get through.

    Example: `flux alerts test operators`
    """
    import asyncio

    from flux.errors import FluxError, NotFoundError, UnavailableError
    from flux.registry.alerts import Severity
    from flux.registry.notify import AppriseSender, Message

    chosen = [one for one in _config().routes if route in {None, one.name}]
    if not chosen:
        raise NotFoundError(f"no route {route!r}; `flux alerts routes` lists them")
    send, failed = AppriseSender(), 0
    message = Message("Flux, test", "A test notification, sent by hand. Nothing is wrong.", Severity.INFO)
    for one in chosen:
        try:
            asyncio.run(send(one, message))
            typer.echo(f"{one.name}: sent")
        except FluxError as error:
            failed += 1
            typer.secho(str(error), fg="red", err=True)
    if failed:
        raise UnavailableError(f"{failed} of {len(chosen)} routes failed")


def _config() -> "NotificationConfig":
    from flux.config import load_settings
    from flux.registry.notify import load_notifications

    need_database()
    file = load_settings().notifications_file
    config = load_notifications(file)
    if config is None:
        raise InputError(f"{file}: there is no such file; docs/devices.md shows what is in it")
    return config
