"""``flux control``: check a plan, see its week, try it on given states."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from flux.cli import control_faults, control_ledger, control_picture, control_push, control_stop, control_told, jobs
from flux.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from datetime import date, timedelta

    from flux.control.decision import Decision
    from flux.control.plan import ControllerPlan
    from flux.control.week import CalendarRow

app = typer.Typer(no_args_is_help=True, help="The controller: check a plan, see its week, try it out.")

app.command()(control_stop.stop)
app.command()(control_stop.resume)
app.command("set-point", context_settings={"ignore_unknown_options": True})(jobs.set_point)  # -20 is no option
for _command in (control_ledger.log, control_ledger.why, control_ledger.compare, control_ledger.plan):
    app.command()(_command)
app.command()(control_ledger.rejected)
app.command()(control_faults.faults)
app.command()(control_picture.picture)
app.command()(control_push.push)
app.command()(control_push.withdraw)
app.add_typer(control_told.schedule_app, name="schedule")
app.add_typer(control_told.envelope_app, name="envelope")

PlanFile = Annotated[Path, typer.Argument(help="site.yaml, or a file with its controller section alone.")]


@app.command()
def check(
    plan: PlanFile,
    site: Annotated[
        str | None, typer.Option("--site", help="Check the devices too, against this site's in the registry.")
    ] = None,
) -> None:
    """Check a plan; what is wrong is told with file, line, key and value, and the exit code is 2.

    Example: `flux control check site.yaml --site WLCE`
    """
    from flux.cli.control_push import checked_plan
    from flux.control.plan import load_plan, plan_hash

    loaded = load_plan(plan) if site is None else checked_plan(plan, site)
    modes = ", ".join(mode.mode for mode in loaded.modes) or "none, the battery idles"
    typer.echo(f"{plan}: the plan is valid ({plan_hash(loaded)})")
    typer.echo(f"controls {', '.join(loaded.bess)} by {loaded.site_meter}; modes, highest priority first: {modes}")


@app.command()
def show(
    plan: PlanFile,
    first_day: Annotated[str | None, typer.Option("--from", help="First day, like 2026-03-23; default: today.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per entry.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Draw the week into this SVG file.")] = None,
) -> None:
    """Show which entries of a plan would be asked through a week, in the plan's local time: a table, or a picture.

    Clock changes and holidays are taken into account. Example: `flux control show site.yaml --from 2026-03-23 -o
    week.svg`
    """
    from datetime import UTC, datetime

    from flux.control.plan import load_plan
    from flux.control.week import calendar

    loaded = load_plan(plan)
    first = _day(first_day) if first_day else datetime.now(UTC).astimezone(loaded.zone).date()
    if output is not None:
        _draw_week(loaded, first, output)
        return
    rows = calendar(loaded, first)
    if as_json:
        _print_json(rows)
    else:
        _print_table(rows, first, loaded.timezone)


@app.command()
def replay(
    plan: Annotated[Path, typer.Option(help="site.yaml, or a file with its controller section alone.")],
    steps: Annotated[Path, typer.Option(help="States, one JSON object a line; - reads standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, also on a terminal.")] = False,
    step: Annotated[str | None, typer.Option(help="Time between steps; default: the plan's interval.")] = None,
) -> None:
    """Ask the controller what it would do in given states; needs no device and no database.

    Prints one JSON line per step; on a terminal, without --json, a line of text. docs/control.md describes a step.

    Example: `flux control replay --plan site.yaml --steps steps.jsonl`
    """
    import sys

    from flux.control.plan import load_plan
    from flux.control.replay import replay as decisions_of
    from flux.control.steps import decision_line

    loaded = load_plan(plan, allow_overlaps=True)
    for path, message in loaded.overlaps():
        typer.secho(f"warning: {plan}: {'.'.join(map(str, path))}: {message}; the first counts", fg="yellow", err=True)
    form = decision_line if as_json or not sys.stdout.isatty() else _decision_text
    with _open_steps(steps) as lines, _seldom_collecting():
        decisions = decisions_of(loaded, _told(lines, steps), str(steps), _step_length(step))
        _write(decisions, form, flush=str(steps) == "-")


@contextmanager
def _seldom_collecting() -> "Iterator[None]":
    """Nothing that a step makes refers to itself: looking for such rings all the time would cost a tenth."""
    import gc

    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _write(decisions: "Iterator[Decision]", form: "Callable[[Decision], str]", *, flush: bool) -> None:
    import os
    import sys

    try:
        for decision in decisions:
            sys.stdout.write(form(decision) + "\n")
            if flush:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        sys.stdout.flush()


def _open_steps(path: Path) -> "AbstractContextManager[TextIO]":
    import sys
    from contextlib import nullcontext

    if str(path) == "-":
        return nullcontext(sys.stdin)
    try:
        return path.open(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _told(lines: TextIO, path: Path) -> "Iterator[str]":
    try:
        yield from lines
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _step_length(text: str | None) -> "timedelta | None":
    from flux.model import parse_duration

    if text is None:
        return None
    try:
        length = parse_duration(text)
    except ValueError as error:
        raise InputError(f"--step: {error}") from None
    if not length:
        raise InputError(f"--step {text}: must be more than 0s")
    return length


def _day(text: str) -> "date":
    from datetime import date

    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"--from {text}: not a day; write it like 2026-03-23") from None


def _decision_text(decision: "Decision") -> str:
    target = decision.target_power_kw
    power = "   no command" if target is None else f"{target:+10.1f} kW"
    return f"{decision.time:%Y-%m-%d %H:%M:%S}Z {power}  {decision.reason}"


def _draw_week(plan: "ControllerPlan", first: "date", output: Path) -> None:
    from flux.control.week_picture import draw_week

    try:
        output.write_text(draw_week(plan, first), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output}: {error.strerror}") from None
    typer.echo(f"{output}: the week from {first:%a} {first.day} {first:%B %Y}")


def _print_json(rows: "list[CalendarRow]") -> None:
    import json

    for row in rows:
        windows = [{"start": w.start.isoformat(), "end": w.end.isoformat()} for day in row.days for w in day]
        typer.echo(json.dumps({"entry": row.name, "windows": windows}))


def _print_table(rows: "list[CalendarRow]", first: "date", zone: str) -> None:
    from datetime import timedelta

    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Periods by the day they start on, {zone} time; highest priority first")
    table.add_column("entry", overflow="fold")
    for number in range(len(rows[0].days) if rows else 7):
        table.add_column(overflow="fold", header=f"{first + timedelta(days=number):%a %d %b}")
    for row in rows:
        table.add_row(row.name, *("\n".join(words) for words in row.words(first)))
    console = Console(markup=False, emoji=False)  # a name or a reason with brackets is no markup
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no edge to keep to
    console.print(table)
