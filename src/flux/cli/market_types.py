"""``flux market types``: what values mean; more can be registered."""

from typing import Annotated, Any

import typer

from flux.cli.shared import print_table, run_on_database

types_app = typer.Typer(no_args_is_help=True, help="What market values mean: name, unit, how long a value holds.")


@types_app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List all types."""
    from flux.store import market

    rows = [_row(kind) for kind in run_on_database(market.data_types)]
    if as_json:
        import json

        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        print_table(rows)


@types_app.command()
def add(
    name: Annotated[str, typer.Argument(help="E.g. day_ahead_price.")],
    unit: Annotated[str, typer.Option(help="E.g. £/MWh, MW, MWh, kW.")],
    description: Annotated[str, typer.Option(help="One line.")] = "",
    holds: Annotated[str, typer.Option(help="How long a value is in force after its time, at most.")] = "30m",
    id: Annotated[int | None, typer.Option(min=1, help="Its number; the next from 100 if not given.")] = None,
) -> None:
    """Register a type.

    Example: `flux market types add day_ahead_price --unit £/MWh --holds 1h --description "N2EX day-ahead auction"`
    """
    from datetime import timedelta

    from flux.errors import InputError
    from flux.model import parse_duration
    from flux.store import market

    try:
        lasts = parse_duration(holds)
    except ValueError as error:
        raise InputError(f"--holds: {error}") from None
    if lasts <= timedelta():
        raise InputError(f"--holds {holds}: a value holds for some time")

    async def work(conn: Any) -> Any:
        return await market.add_data_type(conn, name, unit, description or name, id=id, holds=lasts)

    print_table([_row(run_on_database(work))])


def _row(kind: Any) -> dict[str, Any]:
    from flux.model import format_duration

    return {
        "id": kind.id,
        "name": kind.name,
        "unit": kind.unit,
        "holds": format_duration(kind.holds),
        "description": kind.description,
    }
