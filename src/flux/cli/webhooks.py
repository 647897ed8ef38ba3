"""``flux webhooks``: which dispatch platforms may send schedules, and their secrets."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Dispatch platforms that send schedules by webhook, and the secrets they sign with.\n\n"
    "A secret is shown once; a server that runs takes up every change by itself.",
)
Name = Annotated[str, typer.Argument(help="What the platform is called, e.g. axle; it is in its URL.")]


@app.command()
def create(
    source: Name,
    site: Annotated[list[str], typer.Option(help="A site that it may dispatch; may be given several times.")],
) -> None:
    """Let a platform send schedules, and print its secret, once. The secret alone goes to stdout.

    Example: `flux webhooks create axle --site WLCE > axle.secret`
    """
    from flux.api.webhook_sources import add_source

    secret = add_source(_file(), source, site)
    typer.echo(f"{source} may POST to /v1/webhooks/dispatch/{source} for {', '.join(site)}, signed with:", err=True)
    typer.echo(secret)


@app.command("list")
def list_() -> None:
    """List the platforms, without their secrets."""
    from flux.api.webhook_sources import load_sources
    from flux.cli.shared import print_table

    sources = load_sources(_file())
    if not sources:
        typer.echo("no platform may send webhooks; `flux webhooks create --help` shows how to let one")
        return
    print_table(
        [
            {
                "source": name,
                "sites": ", ".join(source.sites),
                "secrets": len(source.secrets),
                "from the environment": ", ".join(source.secrets_env),
            }
            for name, source in sources.items()
        ]
    )


@app.command()
def rotate(
    source: Name,
    finish: Annotated[bool, typer.Option("--finish", help="Accept the newest secret alone from now on.")] = False,
) -> None:
    """Print another secret, accepted beside the old one; once the platform has it, `--finish` ends the old one.

    Example: `flux webhooks rotate axle`, and later `flux webhooks rotate axle --finish`
    """
    from flux.api.webhook_sources import add_secret, keep_newest_secret

    if finish:
        typer.echo(f"{source}: {keep_newest_secret(_file(), source)} older secrets are refused from now on")
        return
    secret = add_secret(_file(), source)
    typer.echo(f"{source}: accepted beside the old one, until `flux webhooks rotate {source} --finish`:", err=True)
    typer.echo(secret)


@app.command()
def remove(source: Name) -> None:
    """Refuse a platform from now on. The schedule that it sent stays: `flux control schedule clear` ends it.

    Example: `flux webhooks remove axle`
    """
    from flux.api.webhook_sources import remove_source

    remove_source(_file(), source)
    typer.echo(f"{source}: refused from now on")


def _file() -> Path:
    from flux.api.webhook_sources import sources_file
    from flux.config import load_settings

    return sources_file(load_settings())
