"""``flux``: the command line. Each command calls one function of a room above.

The command modules import only typer at their top, so that ``flux --help`` and shell completion stay quick.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import flux
from flux.cli import (
    alerts,
    backtest,
    control,
    counters,
    db,
    demo,
    devices,
    doctor,
    edge,
    gaps,
    groups,
    health,
    jobs,
    keys,
    market,
    market_files,
    optimum,
    platform,
    quality,
    readings,
    report,
    scan,
    serve,
    sim,
    tariffs,
    templates,
    transfer,
    up,
    webhooks,
    worker,
)
from flux.cli.supervised import end_with_supervisor
from flux.errors import FluxError

app = typer.Typer(
    name="flux",
    help="Runs battery storage fleets: polls, controls, keeps every reading, rolls it up to the watt-hour.\n\n"
    "Start with `flux demo`: a simulated site, live, in one command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def which_platform(
    url: Annotated[
        str | None, typer.Option(envvar="FLUX_URL", help="Work on a remote platform, e.g. https://flux.example.org.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="FLUX_KEY", help="The key to it. `ps` shows what is typed here: rather set FLUX_KEY."),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(envvar="FLUX_KEY_FILE", help="A file that has the key, which nobody else may read.")
    ] = None,
) -> None:
    """Where a command works, for those that can work elsewhere than on this host."""
    platform.choose(url, key, key_file)


@app.command()
def version() -> None:
    """Print Flux's version."""
    typer.echo(flux.__version__)


for _command in (
    up.up,
    demo.demo,
    edge.edge,
    sim.sim,
    serve.serve,
    worker.worker,
    doctor.doctor,
    health.health,
    backtest.backtest,
    optimum.optimum,
):
    app.command()(_command)
devices.app.command("scan")(scan.scan)
market.app.command()(market_files.export)
market.app.command()(market_files.load)
readings.app.command("export")(transfer.export_readings)
readings.app.command("import")(transfer.import_readings)
for _name, _group in (
    ("devices", devices.app),
    ("groups", groups.app),
    ("alerts", alerts.app),
    ("keys", keys.app),
    ("webhooks", webhooks.app),
    ("readings", readings.app),
    ("rollups", readings.rollups_app),
    ("gaps", gaps.app),
    ("counters", counters.app),
    ("quality", quality.app),
    ("control", control.app),
    ("jobs", jobs.app),
    ("market", market.app),
    ("report", report.app),
    ("tariffs", tariffs.app),
    ("templates", templates.app),
    ("db", db.app),
):
    app.add_typer(_group, name=_name)


def main() -> None:
    """Run the command line; an error that a person can act on is one line on stderr and an exit code of its own."""
    if os.environ.get("FLUX_SUPERVISED"):
        end_with_supervisor()
    try:
        code = app(prog_name="flux", standalone_mode=False)
    except FluxError as error:
        _end_with(str(error), error.exit_code)
    except typer.TyperException as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # that one has printed the help, and is not public
            _end_with(_usage_problem(error), error.exit_code)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _usage_problem(error: typer.TyperException) -> str:
    """A command line that cannot be understood, in one line."""
    context = getattr(error, "ctx", None)
    hint = f"; see `{context.command_path} --help`" if context is not None else ""
    return " ".join(error.format_message().split()).removesuffix(".") + hint


def _end_with(message: str, code: int) -> NoReturn:
    typer.secho(f"error: {message}", fg="red", err=True)
    sys.exit(code)
