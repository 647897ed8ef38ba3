"""``flux edge``: one process that runs one site until it is told to stop."""

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

from flux.config import Settings
from flux.edge.config import DEFAULT_DATABASE_URL_ENV, SiteFile, load_site_file
from flux.edge.https_link import HttpsLink
from flux.edge.link import PlatformLink
from flux.edge.runtime import EdgeRuntime
from flux.edge.sql_link import SqlLink
from flux.store.db import describe_dsn, resolve_dsn


def run_edge(site_path: Path, settings: Settings) -> None:
    """Run the edge of ``site_path`` until SIGTERM, SIGINT or SIGHUP; raises FluxError when it can't begin."""
    site_file = load_site_file(site_path)
    link, platform = open_link(site_file, settings)
    asyncio.run(_run(EdgeRuntime(site_file, link, settings.home, platform=platform)))


def open_link(site_file: SiteFile, settings: Settings) -> tuple[PlatformLink, str]:
    """The link that the site file asks for, and a name of the platform without secrets."""
    platform = site_file.config.platform
    if platform.link == "https":
        assert platform.url is not None  # noqa: S101 - the site file was checked
        ca_file = site_file.beside(platform.ca_file)
        key = partial(_key, site_file)
        key()  # one that is missing is told before anything starts
        link = HttpsLink(site_file.config.site, platform.url, key, ca_file=None if ca_file is None else str(ca_file))
        return link, platform.url
    variable = platform.database_url_env
    if variable != DEFAULT_DATABASE_URL_ENV and variable not in os.environ:
        raise site_file.document.error(
            ["platform", "database_url_env"], f"the environment variable {variable} is not set"
        )
    given = os.environ.get(variable)
    if given:
        return SqlLink(site_file.config.site, lambda: given), describe_dsn(given)
    return SqlLink(site_file.config.site, lambda: resolve_dsn(settings)), f"embedded in {settings.home.resolve()}"


def _key(site_file: SiteFile) -> str:
    """The key of the HTTPS link; InputError in one line, without it, where there is none."""
    platform = site_file.config.platform
    path = site_file.beside(platform.key_file)
    if path is None:
        if not (key := os.environ.get(platform.key_env, "").strip()):
            raise site_file.document.error(
                ["platform", "key_env"], f"the environment variable {platform.key_env} is not set"
            )
        return key
    try:
        mode = path.stat().st_mode
        key = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise site_file.document.error(["platform", "key_file"], f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        key = ""
    if mode & 0o077:
        raise site_file.document.error(["platform", "key_file"], f"{path}: others can read it; `chmod 600 {path}`")
    if not key or any(character.isspace() for character in key):
        raise site_file.document.error(["platform", "key_file"], f"{path}: holds no key")
    return key


async def _run(runtime: EdgeRuntime) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it
            loop.add_signal_handler(number, stop.set)
    async with runtime:
        await stop.wait()
