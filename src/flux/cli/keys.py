"""``flux keys``: who may use the HTTP API."""

from datetime import timedelta
from typing import Annotated, Any

import typer

from flux.cli.shared import actor, choice, opened_database, print_table, run_on_database
from flux.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    help="Keys of the HTTP API: who may call it, as what, and which sites they see.\n\n"
    "A key is shown once, when it is made; Flux keeps none. Revoke one that was lost.",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Which = Annotated[str, typer.Argument(help="Name or id of the key.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for; what is done with it is noted under this name.")],
    role: Annotated[str, typer.Option(help="authenticated (reads), operator, edge, service or anon.")],
    site: Annotated[
        list[str] | None, typer.Option(help="Only this site; may be given several times. None: every site.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="When it ends: a time, or from now on, e.g. 90d.")] = None,
) -> None:
    """Make a key and print it, once. The key alone goes to stdout, so that it can be piped into a file.

    Example: `flux keys create grafana --role authenticated --site WLCE --expires 90d > grafana.key`
    """
    from flux.api.identity import Role
    from flux.api.keys import create_key
    from flux.store.keys import unknown_sites

    kind = choice(Role, role, "--role")
    secret = _secret()
    until = _until(expires) if expires else None

    async def work(conn: Any) -> Any:
        new = await create_key(conn, secret, name=name, role=kind, sites=site or None, by=actor(), expires_at=until)
        return new, await unknown_sites(conn, new.key.sites or [])

    new, unknown = run_on_database(work)
    _tell(new)
    for code in unknown:
        typer.echo(f"note: there is no site {code} yet; this key sees nothing of it until there is", err=True)


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also those that were revoked.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the keys, without what is secret of them. `last used` is to about ten minutes."""
    from flux.store.keys import list_keys

    found = run_on_database(lambda conn: list_keys(conn, everything=everything))
    if as_json:
        _print_json(found)
    elif found:
        print_table([_row(key) for key in found])
    else:
        typer.echo("no keys; `flux keys create --help` shows how to make one")


@app.command()
def revoke(which: Which) -> None:
    """Refuse a key from its next request on. It can't be undone; make another one.

    Example: `flux keys revoke grafana`
    """
    from flux.store.keys import revoke_key

    key = run_on_database(lambda conn: revoke_key(conn, which, by=actor()))
    typer.echo(f"{key.name} ({key.role}) is revoked: it is refused from its next request on")


@app.command()
def rotate(
    which: Which,
    grace: Annotated[str, typer.Option(help="How long the old one holds beside the new one, e.g. 1h.")] = "0s",
) -> None:
    """Make a new key with the same name, role and sites in place of the old one, and print it, once.

    Example: `flux keys rotate grafana --grace 1h > grafana.key`
    """
    from flux.api.keys import rotate_key

    secret, span = _secret(), _duration(grace, "--grace")
    _tell(run_on_database(lambda conn: rotate_key(conn, secret, which, by=actor(), grace=span)))


@app.command()
def audit(
    key: Annotated[str | None, typer.Option(help="Only what was done with this key, by name or id.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="Only from then on: a time, or so long ago, e.g. 2h.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, the newest.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Tell who wrote what through the API, the newest first: one line for each statement.

    Example: `flux keys audit --key "control room" --from 2d`
    """
    from datetime import UTC, datetime

    from flux.cli.spans import moment
    from flux.store.keys import audit as read_audit

    start = moment(since, datetime.now(UTC), "--from") if since else None
    found = run_on_database(lambda conn: read_audit(conn, key=key, since=start, limit=limit))
    if as_json:
        _print_json(found)
    elif found:
        print_table([_audit_row(row) for row in found])
    else:
        typer.echo("nothing was written through the API")


@app.command()
def permissions(
    markdown: Annotated[bool, typer.Option("--markdown", help="As docs/api-security.md has it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what each role may do with each table and function, as the database grants it now.

    Example: `flux keys permissions | less`
    """
    import json

    from flux.store.permissions import as_markdown, functions, read_permissions

    with opened_database() as dsn:
        found = read_permissions(dsn)
    if as_json:
        typer.echo(json.dumps(found))
    elif markdown:
        typer.echo(as_markdown(found))
    else:
        print_table([row for row in found if row not in functions(found)])
        typer.echo("")
        print_table(functions(found))


def _tell(new: Any) -> None:
    key = new.key
    sites = "every site" if key.sites is None else ", ".join(key.sites)
    until = "" if key.expires_at is None else f", until {key.expires_at:%Y-%m-%d %H:%M} UTC"
    typer.echo(f"{key.name}: {key.role} of {sites}{until}; keep it now, it is not shown again", err=True)
    typer.echo(new.token)


def _row(key: Any) -> dict[str, Any]:
    return {
        "name": key.name,
        "role": key.role,
        "sites": "every site" if key.sites is None else ", ".join(key.sites),
        "state": key.state,
        "made": key.created_at,
        "by": key.created_by,
        "expires": key.expires_at,
        "last used": key.last_used,
        "id": str(key.id),
    }


def _audit_row(row: Any) -> dict[str, Any]:
    return {
        "time": row.time,
        "key": row.name,
        "role": row.role,
        "sites": "every site" if row.sites is None else ", ".join(row.sites),
        "verb": row.verb,
        "what": row.object,
        "rows": row.rows,
        "request": row.request_id,
    }


def _print_json(rows: list[Any]) -> None:
    import dataclasses
    import json

    typer.echo(json.dumps([dataclasses.asdict(row) for row in rows], default=str))


def _secret() -> bytes:
    """What signs; made here where no server has started yet."""
    from flux.api.secret import load_secrets
    from flux.config import load_settings

    return load_secrets(load_settings(), create=True)[0]


def _until(text: str) -> Any:
    from datetime import UTC, datetime

    from flux.cli.spans import moment
    from flux.model.durations import parse_duration

    now = datetime.now(UTC)
    try:
        until = now + parse_duration(text)
    except ValueError:
        until = moment(text, now, "--expires")
    if until <= now:
        raise InputError(f"--expires {text}: that is not ahead")
    return until


def _duration(text: str, option: str) -> timedelta:
    from flux.model.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"{option} {text!r}: {error}") from None
