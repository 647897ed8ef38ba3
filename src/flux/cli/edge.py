"""``flux edge``: run the edge of one site."""

from pathlib import Path
from typing import Annotated

import typer

from flux.errors import InputError


def edge(
    site: Annotated[
        Path | None, typer.Option("--site", metavar="FILE", help="The site file, site.yaml.", show_default=False)
    ] = None,
    home: Annotated[
        Path | None, typer.Option("--home", help="Folder of the edge's state; default: FLUX_HOME, else .flux.")
    ] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")] = False,
    print_schema: Annotated[
        bool, typer.Option("--print-schema", help="Print the JSON Schema of the site file and stop.")
    ] = False,
) -> None:
    """Poll, control and record the devices of one site until told to stop (Ctrl-C or SIGTERM).

    The site file names the site and its plan; devices and their addresses come from the platform's registry. When it
    stops, the batteries are told 0 kW and every reading is on disk. It goes on when the platform is away.

    Examples: `flux edge --site site.yaml`, and `flux edge --print-schema > site.schema.json` for an editor.
    """
    if print_schema:
        _print_schema()
        return
    if site is None:
        raise InputError("--site is missing: flux edge --site site.yaml")
    from flux.config import load_settings
    from flux.config.logs import configure_logging
    from flux.edge.main import run_edge

    settings = load_settings()
    changes = {"home": home or settings.home, "log_json": log_json or settings.log_json}
    settings = settings.model_copy(update=changes)
    configure_logging(settings)
    run_edge(site, settings)


def _print_schema() -> None:
    import json

    from flux.edge.config import site_schema

    typer.echo(json.dumps(site_schema(), indent=2))
