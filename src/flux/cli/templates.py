"""``flux templates``: register maps of devices."""

from pathlib import Path
from typing import Annotated

import typer

from flux.cli.shared import print_table

app = typer.Typer(no_args_is_help=True, help="Templates: what a device's registers mean, as YAML.")


@app.command("list")
def list_() -> None:
    """List the templates that come with Flux."""
    from flux.devices.template import builtin_templates

    print_table(
        [
            {
                "name": template.name,
                "type": str(template.type),
                "manufacturer": template.manufacturer,
                "model": template.model or "–",
                "registers": len(template.registers),
                "controllable": "yes" if template.controllable else "no",
            }
            for template in builtin_templates().values()
        ]
    )


@app.command()
def check(file: Annotated[Path, typer.Argument(help="Template file.")]) -> None:
    """Check a template and say what it means; what is wrong is told with file, line and key, exit code 2.

    Example: `flux templates check my-meter.yaml`
    """
    from flux.devices.describe import describe
    from flux.devices.template import load_template

    typer.echo(describe(load_template(file)))


@app.command()
def schema() -> None:
    """Print the JSON Schema of templates, for editors."""
    import json

    from flux.devices.template import template_schema

    typer.echo(json.dumps(template_schema(), indent=2))
