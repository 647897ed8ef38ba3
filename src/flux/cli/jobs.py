"""``flux jobs`` and ``flux control set-point``: what the edge of a site is asked to do once."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.platform import body, platform
from flux.cli.shared import print_table
from flux.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from datetime import timedelta

    from flux.cli.platform import Platform
    from flux.model import Job

app = typer.Typer(no_args_is_help=True, help="Jobs of sites' edges: scans, tests, set-points, stops.")

JobId = Annotated[str, typer.Argument(help="The job's id.", metavar="ID")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_LOOK_EVERY_S = 0.5


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
    from flux.api.typed import jobs

    if (kw is None) is not end:
        raise InputError("give a power in kW, or --end")
    span, patience = _duration(lasts, "--for"), _duration(wait, "--wait")
    asked = body(jobs.SetPoint, power_kw=kw, lasts=None if end else span)
    with platform() as there:
        job = over(there, there.call(jobs.set_point, name=battery, body=asked), patience)
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
    from flux.api.typed import jobs

    with platform() as there:
        found = there.call(jobs.list_jobs, site=site, limit=last)
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
    from flux.api.typed import jobs

    with platform() as there:
        job = there.call(jobs.show_job, job=_uuid(job_id))
    typer.echo(job.model_dump_json(indent=1))


@app.command()
def cancel(job_id: JobId) -> None:
    """Call off a job that no edge has begun.

    Example: `flux jobs cancel 6a1e0c5e-…`
    """
    from flux.api.typed import jobs

    with platform() as there:
        job = there.call(jobs.cancel_job, job=_uuid(job_id))
    typer.echo(f"{job.kind} of {job.site} is cancelled")


def over(there: "Platform", job: "Job", patience: "timedelta") -> "Job":
    """The job once it is done; UnavailableError with what became of it otherwise."""
    from time import monotonic, sleep

    from flux.api.typed import jobs
    from flux.model import JobState

    deadline = monotonic() + patience.total_seconds()
    while job.state in (JobState.WAITING, JobState.RUNNING) and monotonic() < deadline:
        sleep(_LOOK_EVERY_S)
        job = there.call(jobs.show_job, job=job.id)
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
