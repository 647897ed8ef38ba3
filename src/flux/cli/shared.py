"""What several commands do alike: open the database, print a table."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from flux.errors import InputError


@contextlib.contextmanager
def opened_database(*, create: bool = False) -> Iterator[str]:
    """The DSN of the database that a command works on, for as long as the block; what goes wrong is one clear line."""
    from flux.cli.platform import need_database
    from flux.config import load_settings
    from flux.config.logs import configure_logging
    from flux.store.db import database, told_plainly

    need_database()
    settings = load_settings()
    configure_logging(settings, quiet=True)  # a person asked; that a server was started is no news
    with database(settings, create=create) as dsn, told_plainly():
        yield dsn


def run_on_database(work: Callable[[Any], Any]) -> Any:
    """Run ``work`` on a connection; an embedded database that does not run is started for it."""
    import asyncio

    from flux.store.db import connect

    async def connected(dsn: str) -> Any:
        async with await connect(dsn, application_name="flux cli", autocommit=True) as conn:
            return await work(conn)

    with opened_database() as dsn:
        return asyncio.run(connected(dsn))


@contextlib.contextmanager
def progress_bar(what: str, total: int | None, *, unit: str = "rows") -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while the block runs, none where that is no terminal; tell it (done of total, units so far).

    ``total`` None: nobody knows yet how much there is.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _rows: None
        return
    rows = TextColumn(f"{{task.fields[rows]:,}} {unit}")
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), rows, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, rows=0)
        yield lambda done, rows: bar.update(task, completed=done, rows=rows)


def actor() -> str:
    """Who types this, for histories: ada@control-room."""
    import getpass
    import socket

    return f"{getpass.getuser()}@{socket.gethostname()}"


def choice(kind: Any, value: str | None, option: str) -> Any:
    """The member of an enumeration; None stays None. The error names what there is."""
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError:
        raise InputError(f"{option} {value!r}: one of {', '.join(kind)}") from None


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Headings break over lines where the terminal is narrow, values never do; a pipe gets one line for each row."""
    from rich.console import Console
    from rich.table import Table

    columns = list(rows[0]) if columns is None else columns
    table = Table(box=None, header_style="bold")
    for column in columns:
        values = [row[column] for row in rows]
        number = any(isinstance(value, int | float) for value in values)
        widest = max((len(cell(column, value)) for value in values if not isinstance(value, str)), default=None)
        table.add_column(column.replace("_", " "), justify="right" if number else "left", min_width=widest)
    for row in rows:
        table.add_row(*(cell(column, row[column]) for column in columns))
    console = Console(markup=False, emoji=False)  # a name or a reason with brackets is no markup
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)


def cell(column: str, value: Any) -> str:
    """Energy to 0.01, ages to the second, other measured values to 0.001, as the whole of Flux shows them."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        digits = 2 if column.startswith("energy") else 0 if column == "age_s" else 3
        return f"{value:z,.{digits}f}"
    return str(value)
