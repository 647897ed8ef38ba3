"""The live table of `flux up` and `flux demo`: what a person wants to know of a site at a glance."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection, OperationalError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flux.errors import UnavailableError
from flux.local.status import EdgeStatus, StoreFigures, read_edge_status, store_figures
from flux.local.supervisor import Child, stopped
from flux.store.db import connect

_REFRESH_S = 1.0
_COUNT_EVERY_S = 5.0
_PLAIN_EVERY_S = 30.0


@dataclass(slots=True)
class LiveView:
    """Draws until ``stop`` is set: a table that redraws itself on a terminal, a line now and then elsewhere."""

    console: Console
    children: Sequence[Child]
    dsn: str
    status_file: Path | None
    clock: Callable[[], datetime]
    footer: str = ""
    figures: StoreFigures | None = None

    async def run(self, stop: asyncio.Event, *, redraw: bool) -> None:
        counting = asyncio.create_task(self._keep_counting())
        try:
            await (self._redraw(stop) if redraw else self._print_lines(stop))
        finally:
            await stopped(counting)

    async def _redraw(self, stop: asyncio.Event) -> None:
        with Live(self.render(), console=self.console, auto_refresh=False) as live:
            while not await _set_within(stop, _REFRESH_S):
                live.update(self.render(), refresh=True)

    async def _print_lines(self, stop: asyncio.Event) -> None:
        while not await _set_within(stop, _PLAIN_EVERY_S):
            self.console.print(self.line(), highlight=False, soft_wrap=True)

    async def _keep_counting(self) -> None:
        while True:
            # a database that is away shows as figures that are missing; the children say the rest in their logs
            with contextlib.suppress(OperationalError, UnavailableError):
                async with await connect(self.dsn, application_name="flux up", autocommit=True) as conn:
                    await self._count_while_connected(conn)
            self.figures = None
            await asyncio.sleep(_COUNT_EVERY_S)

    async def _count_while_connected(self, conn: AsyncConnection[Any]) -> None:
        while True:
            self.figures = await store_figures(conn)
            await asyncio.sleep(_COUNT_EVERY_S)

    def render(self) -> RenderableType:
        """The table as it is now."""
        status = read_edge_status(self.status_file) if self.status_file else None
        table = Table.grid(padding=(0, 3))
        table.add_column(style="dim", justify="right")
        table.add_column()
        for label, value in self.rows(status):
            table.add_row(label, value)
        heading = Text(f"Flux  {self.clock():%Y-%m-%d %H:%M:%S} UTC", style="bold")
        return Group(heading, table, Text.from_markup(self.footer)) if self.footer else Group(heading, table)

    def rows(self, status: EdgeStatus | None) -> list[tuple[str, str]]:
        """Label and value of each line."""
        rows = [*(status.rows(self.clock()) if status else [("site", "waiting for the edge …")])]
        if self.figures is None:
            rows.append(("database", "[yellow]does not answer[/]"))
        else:
            rows.append(("readings stored", f"{self.figures.readings:,}"))
            rows.append(("rollup lag", f"{self.figures.rollup_lag_s:.0f} s"))
            if self.figures.rejected:
                rows.append(("rejected", f"[yellow]{self.figures.rejected:,}[/] (`flux readings rejected`)"))
        rows.append(("processes", "  ".join(_child(child) for child in self.children)))
        return rows

    def line(self) -> str:
        """All of it in one line, for a log."""
        status = read_edge_status(self.status_file) if self.status_file else None
        values = ", ".join(f"{label} {value}" for label, value in self.rows(status))
        return f"{self.clock():%H:%M:%S} {values}"


def _child(child: Child) -> str:
    colour = "green" if child.running else "red"
    again = f" (restarted {child.restarts}×, see {child.log_file})" if child.restarts else ""
    return f"[{colour}]●[/] {child.spec.name}{again}"


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
