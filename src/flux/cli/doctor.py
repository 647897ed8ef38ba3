"""``flux doctor``."""

from typing import Annotated, Any

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """Say what is wrong with this installation and what to do: disk, ports, database, schema, clock, devices.

    Exit code 0: nothing is wrong (there may be warnings); 6: something is.
    """
    import asyncio
    import json
    import sys

    from flux.config import load_settings
    from flux.config.logs import configure_logging
    from flux.local.doctor import Grade, examine, utc_now

    settings = load_settings()
    configure_logging(settings, quiet=True)

    async def run() -> bool:
        healthy = True
        async for finding in examine(settings, utc_now):
            healthy &= finding.grade is not Grade.PROBLEM
            if as_json:
                typer.echo(json.dumps(finding.as_dict()))
            else:
                _print(finding)
        return healthy

    if not asyncio.run(run()):
        sys.exit(6)


def _print(finding: Any) -> None:
    sign, colour = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}[finding.grade]
    typer.echo(f"{typer.style(sign, fg=colour)} {finding.check:<20} {finding.message}")
    if finding.advice:
        typer.echo(f"  {'':<20} → {finding.advice}")
