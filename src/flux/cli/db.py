"""``flux db``: the database behind Flux."""

from pathlib import Path
from typing import Annotated

import typer

from flux.cli import retention
from flux.cli.shared import opened_database

app = typer.Typer(
    no_args_is_help=True,
    help="The database: schema, backup, restore, a psql prompt.\n\n"
    "It is the one that FLUX_DATABASE_URL names, or the embedded one in FLUX_HOME, which is started "
    "for the command if it does not run.",
)

app.add_typer(retention.app, name="retention")


@app.command()
def migrate() -> None:
    """Bring the schema to this program's version. Safe at any time, also while Flux runs.

    Example: `flux db migrate`
    """
    from flux.store.migrate import migrate as run_migrations

    with opened_database(create=True) as dsn:
        report = run_migrations(dsn)
    if report.without_api is not None:
        typer.echo(report.without_api, err=True)
    if not report.changed:
        typer.echo(f"schema is up to date: version {report.version}")
        return
    typer.echo(f"schema: version {report.version_before or 'none'} → {report.version}")
    for column in report.columns_added:
        typer.echo(f"added column {column}")
    for name in report.objects_applied:
        typer.echo(f"applied {name}")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False) -> None:
    """Tell what the schema lacks, how large what is and what goes next; exit code 1 if there is something to migrate.

    Example: `flux db status || flux db migrate`
    """
    import dataclasses
    import json

    from flux.cli.retention import kept_status, print_kept
    from flux.store.migrate import status as schema_status

    with opened_database() as dsn:
        found = schema_status(dsn)
        kept = kept_status(dsn) if found.current else None
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found) | {"current": found.current} | (kept or {}), default=str))
    else:
        if kept is not None:
            print_kept(kept)
        typer.echo(f"PostgreSQL {found.server_version}, schema version {found.version or 'none'} of {found.newest}")
        for what, names in (
            ("migrations to run", found.pending),
            ("columns to add", found.missing_columns),
            ("SQL to apply", found.stale_objects),
        ):
            if names:
                typer.echo(f"{what}: {', '.join(names)}")
        if found.without_api is not None:
            typer.echo(found.without_api)
        typer.echo("up to date" if found.current else "run `flux db migrate`")
    if not found.current:
        raise typer.Exit(1)


@app.command(name="roles")
def print_roles() -> None:
    """Print what a DBA runs once where Flux's own database user may not make roles: the HTTP API needs them.

    Example: `flux db roles > roles.sql`
    """
    from flux.store.db import connect_sync
    from flux.store.roles import roles_sql

    with opened_database() as dsn, connect_sync(dsn, autocommit=True) as connection:
        typer.echo(roles_sql(connection), nl=False)


@app.command(name="sql")
def print_sql() -> None:
    """Print the SQL of the rollup engine, as `flux db migrate` applies it. Needs no database.

    Example: `flux db sql | less`
    """
    from flux.store.rollups import render_sql

    typer.echo(render_sql(), nl=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context) -> None:
    """Open psql on the database; everything after `psql` goes to it.

    Example: `flux db psql -c "SELECT name, state FROM flux.mg_device_registry"`
    """
    import signal
    import subprocess

    from flux.store.backup import client_command
    from flux.store.db import check_answers

    with opened_database() as dsn:
        check_answers(dsn)
        command, environment = client_command("psql", dsn)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is psql's: it cancels a query
        try:
            code = subprocess.run([*command, *context.args], env=environment, check=False).returncode  # noqa: S603 - psql, no shell
        finally:
            signal.signal(signal.SIGINT, before)
    raise typer.Exit(code)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where to; it appears when it is whole.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write everything that Flux keeps to one file, as it is at one moment. Flux goes on meanwhile.

    Example: `flux db backup flux-2026-01-15.dump`
    """
    from flux.store.backup import backup as write_backup

    with opened_database() as dsn:
        size = write_backup(dsn, file, force=force)
    typer.echo(f"{file}: {size / 1_000_000:.1f} MB")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `flux db backup` wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Replace all that is in the database now.")] = False,
) -> None:
    """Put a backup into an empty database; all of it or, after any error, nothing.

    Example: `FLUX_HOME=/srv/flux-new flux db restore flux-2026-01-15.dump`
    """
    from flux.store.backup import restore as read_backup

    with opened_database(create=True) as dsn:
        found = read_backup(dsn, file, force=force)
    typer.echo(
        f"restored: {found.devices} devices, {found.meter_readings:,} meter readings, "
        f"{found.bess_readings:,} BESS readings; schema version {found.schema_version}"
    )
