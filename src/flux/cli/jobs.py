"""``flux jobs`` and ``flux control set-point``: what the edge of a site is asked to do once."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.shared import actor, print_table, run_on_database
from flux.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from datetime import timedelta

    from flux.model import Job

app = typer.Typer(no_args_is_help=True, help="Jobs of sites' edges: scans, tests, set-points, stops.")

JobId = Annotated[str, typer.Argument(help="The job's id.", metavar="ID")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_LOOK_EVERY_S = 0.25
_TO_BEGIN_S = 60


def set_point(
    battery: Annotated[str, typer.Argument(help="The battery, by name or id.")],
    kw: Annotated[float | None, typer.Argument(help="kW; + discharge, - charge.", metavar="KW")] = None,
    lasts: Annotated[str, typer.Option("--for", help="How long, at most 24h.")] = "15m",
    end: Annotated[bool, typer.Option("--end", help="End the one that is in force.")] = False,
    wait: Annotated[str, typer.Option("--wait", help="How long to wait for the battery.")] = "30s",
) -> None:
    """Give a battery a power by hand for a while, within all limits of its site's plan; then the plan goes on.

    The site's edge carries it out, at once if it is connected, and not at all if it is away for longer than a minute.
    The exit code is 0 once the battery has acknowledged it. A stop of the site ends it.

    Example: `flux control set-point WLCE-BESS-01 -20 --for 15m`, `flux control set-point WLCE-BESS-01 --end`
    """
    from datetime import UTC, datetime, timedelta

    from flux.model import JobKind
    from flux.registry import get_device
    from flux.store.jobs import create_job

    if (kw is None) is not end:
        raise InputError("give a power in kW, or --end")
    span, patience = _duration(lasts, "--for"), _duration(wait, "--wait")

    async def work(conn: Any) -> "Job":
        device = await get_device(conn, battery)
        now = datetime.now(UTC)
        until = None if end else (now + span).isoformat()
        args = {"device": device.name, "power_kw": kw, "until": until}
        expires_at = now + timedelta(seconds=_TO_BEGIN_S)
        job = await create_job(conn, device.site, JobKind.SET_POINT, args, expires_at=expires_at, actor=actor())
        return await _over(conn, job, patience)

    job = run_on_database(work)
    if end:
        typer.echo(f"{job.args['device']}: {'it has ended' if job.result['ended'] else 'there was none'}")
        return
    result = job.result
    typer.echo(f"{job.args['device']}: {result['acknowledged_kw']:+.1f} kW acknowledged; {result['reason']}")


@app.command("list")
def list_(
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    last: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    Example: `flux jobs list --site WLCE`
    """
    from flux.store.jobs import list_jobs

    found = run_on_database(lambda conn: list_jobs(conn, site, limit=last))
    if as_json:
        import json

        typer.echo(json.dumps([job.model_dump(mode="json") for job in found], indent=1))
    elif found:
        print_table([_row(job) for job in found])
    else:
        typer.echo("no jobs")


@app.command()
def show(job_id: JobId) -> None:
    """Show one job as JSON: what was asked, what became of it.

    Example: `flux jobs show 6a1e0c5e-…`
    """
    from flux.store.jobs import get_job

    job = run_on_database(lambda conn: get_job(conn, _uuid(job_id)))
    typer.echo(job.model_dump_json(indent=1))


@app.command()
def cancel(job_id: JobId) -> None:
    """Call off a job that no edge has begun.

    Example: `flux jobs cancel 6a1e0c5e-…`
    """
    from flux.store.jobs import cancel_job

    job = run_on_database(lambda conn: cancel_job(conn, _uuid(job_id), actor=actor()))
    typer.echo(f"{job.kind} of {job.site} is cancelled")


async def _over(conn: Any, job: "Job", patience: "timedelta") -> "Job":
    """The job once it is done; UnavailableError with what became of it otherwise."""
    import asyncio
    from datetime import UTC, datetime

    from flux.model import JobState
    from flux.store.jobs import get_job

    deadline = datetime.now(UTC) + patience
    while job.state in (JobState.WAITING, JobState.RUNNING) and datetime.now(UTC) < deadline:
        await asyncio.sleep(_LOOK_EVERY_S)
        job = await get_job(conn, job.id)
    if job.state is JobState.DONE:
        return job
    what = {
        JobState.WAITING: f"the edge of {job.site} has not taken it yet; it waits until {job.expires_at:%H:%M:%S} UTC",
        JobState.RUNNING: "the edge has not said yet what became of it",
        JobState.EXPIRED: f"the edge of {job.site} did not take it in time, so it is never run",
    }.get(job.state, job.error or job.state)
    raise UnavailableError(f"job {job.id}: {what}")


def _row(job: "Job") -> dict[str, Any]:
    told = job.error or ("" if job.result is None else _short(job.result))
    return {
        "id": str(job.id),
        "site": job.site,
        "kind": str(job.kind),
        "state": str(job.state),
        "ordered": f"{job.created_at:%Y-%m-%d %H:%M:%S}",
        "by": job.created_by,
        "what became of it": told,
    }


def _short(result: Any) -> str:
    import json

    text = json.dumps(result)
    return text if len(text) <= 80 else text[:79] + "…"


def _uuid(text: str) -> Any:
    from uuid import UUID

    try:
        return UUID(text)
    except ValueError:
        raise InputError(f"{text!r}: not the id of a job; `flux jobs list` shows them") from None


def _duration(text: str, option: str) -> "timedelta":
    from flux.model import parse_duration

    try:
        return parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{option}: {error}") from None
