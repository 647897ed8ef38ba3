"""``flux``: the command line. Each command calls one function of a room above; heavy imports are inside commands."""

import sys

import typer

import flux
from flux.errors import FluxError

app = typer.Typer(
    name="flux",
    help="Runs battery storage fleets: polls, controls, keeps every reading, rolls it up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command()
def version() -> None:
    """Print Flux's version."""
    typer.echo(flux.__version__)


def main() -> None:
    """Run the command line; an error that a person can act on is one line on stderr and its own exit code."""
    try:
        app()
    except FluxError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
