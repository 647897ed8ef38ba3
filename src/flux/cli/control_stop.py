"""``flux control stop`` and ``flux control resume``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from flux.cli.shared import actor
from flux.errors import InputError

if TYPE_CHECKING:
    from datetime import timedelta

    from flux.edge.stopping import SiteControl

T = TypeVar("T")
SiteCode = Annotated[str, typer.Option("--site", help="The site's code, like WLCE.")]
Home = Annotated[
    Path | None, typer.Option("--home", help="Folder of the edge's state; default: FLUX_HOME, else .flux.")
]
SiteFilePath = Annotated[
    Path | None, typer.Option("--site-file", help="The edge's site.yaml, where that names a state_dir of its own.")
]


def stop(
    site: SiteCode,
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever finds it stopped.")] = "",
    wait: Annotated[str, typer.Option("--wait", help="How long to wait for the batteries.")] = "15s",
    home: Home = None,
    site_file: SiteFilePath = None,
) -> None:
    """Bring a site to 0 kW at once and keep it there until `flux control resume`.

    It overrides every mode and limit, outlives a restart of the edge, and works on the edge's host when the platform is
    away, as it does from anywhere that reaches the platform. The exit code is 0 once every battery has acknowledged
    0 kW, and 6 when that is not known: the stop holds all the same, if it says so.

    Example: `flux control stop --site WLCE --reason "smoke in the inverter room"`
    """
    import asyncio

    from flux.edge.stopping import stop_site

    control = _site_control(site, home, site_file)
    typer.echo(asyncio.run(stop_site(control, actor(), reason, _duration(wait))))


def resume(site: SiteCode, home: Home = None, site_file: SiteFilePath = None) -> None:
    """Let a site be controlled again after `flux control stop`, or after a battery had another master.

    Example: `flux control resume --site WLCE`
    """
    import asyncio

    from flux.edge.stopping import resume_site

    typer.echo(asyncio.run(resume_site(_site_control(site, home, site_file), actor())))


def _site_control(site: str, home: Path | None, site_file: Path | None) -> "SiteControl":
    import re

    from flux.cli.platform import chosen
    from flux.config import load_settings
    from flux.edge.config import load_site_file
    from flux.edge.stopping import SiteControl, SqlOrders
    from flux.store.db import resolve_dsn

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}", site):
        raise InputError(f"--site {site}: not a site's code; it is like WLCE")
    settings = load_settings()
    folder = home or settings.home
    state_dir = folder / "edge" / site
    if site_file is not None:
        loaded = load_site_file(site_file)
        if loaded.config.site != site:
            raise InputError(f"{site_file} is of site {loaded.config.site}, not {site}")
        state_dir = loaded.state_dir(folder)
    remote = chosen()
    orders = SqlOrders(site, lambda: resolve_dsn(settings)) if remote is None else _HttpOrders(site)
    return SiteControl(site, state_dir, orders)


class _HttpOrders:
    """Orders to a remote platform; the actor is its key's name."""

    def __init__(self, site: str) -> None:
        self._site = site

    async def stop(self, actor: str, reason: str) -> None:  # noqa: ARG002 - the platform knows whose key it is
        from flux.api.typed import control
        from flux.cli.platform import body, platform

        def send() -> None:
            with platform() as there:
                there.call(control.stop_site, site=self._site, body=body(control.StopSite, reason=reason))

        await self._aside(send)

    async def resume(self, actor: str) -> bool:  # noqa: ARG002 - the platform knows whose key it is
        from flux.api.typed import control
        from flux.cli.platform import platform

        def send() -> bool:
            with platform() as there:
                return there.call(control.resume_site, site=self._site).was_stopped

        return await self._aside(send)

    async def acknowledged(self) -> bool:
        from flux.api.typed import control
        from flux.cli.platform import platform

        def look() -> bool:
            with platform() as there:
                stop = there.call(control.control_state, site=self._site).stop
            return stop is not None and stop.acknowledged_at is not None

        return await self._aside(look)

    async def _aside(self, send: Callable[[], T]) -> T:
        """In a thread: the batteries on this host are looked at meanwhile."""
        import asyncio

        return await asyncio.to_thread(send)


def _duration(text: str) -> "timedelta":
    from flux.model import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"--wait: {error}") from None
