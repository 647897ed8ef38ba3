"""Everything on one machine: the database, and `edge`, `serve` and `worker` as child processes.

No query can delay the control loop, since that is a process of its own.
"""

import asyncio
import contextlib
import fcntl
import os
import shlex
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import structlog
from rich.console import Console

from flux.api.keys import key_file, make_first_keys, told
from flux.config import Settings
from flux.edge.config import SiteFile
from flux.edge.status import STATUS_FILE
from flux.errors import ConflictError, FluxError, InputError, UnavailableError
from flux.local.live import LiveView
from flux.local.ports import require_free, require_safe, url_of
from flux.local.status import read_edge_status
from flux.local.supervisor import Child, ChildSpec, Supervisor, stopped
from flux.store.db import told_plainly
from flux.store.gateway import gateway_dsn
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

_START_TIMEOUT_S = 30.0
_EDGE_PATIENCE_S = 10.0
_DATABASE_CHECK_S = 3.0
_logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `flux up` starts. Without a site file there is no edge: just the platform."""

    settings: Settings
    site_file: SiteFile | None = None
    before: tuple[ChildSpec, ...] = ()  # children that the edge needs, such as a simulator

    @property
    def url(self) -> str:
        return url_of(self.settings)

    @property
    def status_file(self) -> Path | None:
        """Where the edge says how it is."""
        return None if self.site_file is None else self.site_file.state_dir(self.settings.home) / STATUS_FILE


@dataclass(frozen=True, slots=True)
class Database:
    """The database of this run; ``server`` None: it is the user's own."""

    dsn: str
    server: EmbeddedServer | None = None

    async def keep_running(self) -> None:
        """Start the embedded server again whenever it ended: somebody killed it, or the machine ran out of memory."""
        while self.server is not None:
            await asyncio.sleep(_DATABASE_CHECK_S)
            try:
                restarted = await asyncio.to_thread(self.server.start)
            except FluxError as error:
                _logger.warning("the database cannot be started again yet", error=str(error))
                continue
            if restarted:
                _logger.warning("the database had ended and was started again")


@contextmanager
def migrated_database(settings: Settings) -> Iterator[Database]:
    """A database with the newest schema, for as long as the block runs."""
    if settings.database_url is not None:
        dsn = settings.database_url.get_secret_value()
        with told_plainly():
            migrate(dsn)
        yield Database(dsn)
        return
    with EmbeddedServer(settings.home) as server:
        migrate(server.dsn)
        yield Database(server.dsn, server)


def check_ports(settings: Settings) -> None:
    """Raise before anything is started when HTTP may not listen there, or its port is taken."""
    require_safe(settings)
    require_free(settings.http_host, settings.http_port, "HTTP", "set FLUX_HTTP_PORT to another")


@asynccontextmanager
async def children(options: UpOptions, dsn: str) -> AsyncIterator[Supervisor]:
    """Start the children and wait until HTTP answers; all are stopped, the edge first, when the block ends."""
    home = options.settings.home
    environment = {
        "FLUX_DATABASE_URL": dsn,
        "FLUX_HOME": str(home),
        "FLUX_HTTP_HOST": options.settings.http_host,
        "FLUX_HTTP_PORT": str(options.settings.http_port),
        "FLUX_TLS_CERT": str(options.settings.tls_cert or ""),
        "FLUX_TLS_KEY": str(options.settings.tls_key or ""),
        "FLUX_BEHIND_PROXY": str(options.settings.behind_proxy),
    }
    async with Supervisor(home / "logs") as supervisor:
        for spec in options.before:
            await supervisor.start(spec)
        serve = await supervisor.start(ChildSpec("serve", ["serve"], environment))
        await supervisor.start(ChildSpec("worker", ["worker"], environment))
        edge = None
        if options.site_file is not None:
            arguments = ["edge", "--site", str(options.site_file.path)]
            edge = await supervisor.start(ChildSpec("edge", arguments, environment))
        await supervisor.while_accepted(_wait_for_http(serve, options.url))
        if edge is not None and options.status_file is not None:
            await supervisor.while_accepted(_wait_for_edge(edge, options.status_file))
        yield supervisor


async def _wait_for_http(serve: Child, url: str) -> None:
    # its certificate has the name that others call it by
    async with httpx.AsyncClient(timeout=2.0, trust_env=False, verify=False) as client:  # noqa: S501
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT_S):
                while serve.running or serve.restarts < 1:
                    with contextlib.suppress(httpx.HTTPError):
                        if (await client.get(f"{url}/healthz")).is_success:
                            return
                    await asyncio.sleep(0.1)
    lines = " | ".join(serve.last_lines(3))
    raise UnavailableError(f"`flux serve` did not answer at {url}; {serve.log_file} ends with: {lines}")


async def _wait_for_edge(edge: Child, status_file: Path) -> None:
    """Until the edge has begun. One that takes long is not waited for: the live view shows how it is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_EDGE_PATIENCE_S):
            while True:  # a file has no event to wait for
                status = read_edge_status(status_file)
                if status is not None and status.pid == edge.pid:
                    return
                await asyncio.sleep(0.1)


@contextmanager
def stop_requested() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set; a second signal while stopping changes nothing."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, event.set)
    try:
        yield event
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold this home; :class:`ConflictError` when another `flux up` or `flux demo` runs in it.

    A home that was made for it and has stayed empty goes with it.
    """
    path = home / "up.lock"
    with _told_of_home(home):
        home.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    try:
        with _told_of_home(home):
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: see _locked
        os.close(file)
        with contextlib.suppress(OSError):
            home.rmdir()


def _locked(path: Path) -> int:
    """``path``, opened and locked; opened again where its last holder removed it before we had the lock."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 20).decode(errors="replace").strip() or "?"
            os.close(file)
            raise ConflictError(f"Flux runs in {path.parent} already (process {holder}); stop it first") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)


@contextmanager
def _told_of_home(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"FLUX_HOME={home} cannot be used: {error.strerror}; name another folder") from None


def run_up(options: UpOptions) -> None:
    """Run until SIGINT or SIGTERM."""
    console = Console()
    settings = options.settings
    with only_one(settings.home):
        check_ports(settings)
        with migrated_database(settings) as database:
            asyncio.run(run_children(options, database, console, lambda: _heading(options)))
    console.print(f"stopped; everything is kept in {settings.home}")


def _heading(options: UpOptions) -> str:
    """Where Flux is, and a line that can be pasted as it is."""
    settings = options.settings
    key = key_file(settings, "service")
    lines = [f"Flux runs: {options.url}/docs"]
    # the database may know a service key of another home; and a certificate has the name that others call Flux by
    if key.exists() and settings.tls_cert is None:
        lines += [
            "  [dim]every request needs a key; `flux keys create` makes others[/]",
            f'  $ curl -sf -H "apikey: $(cat {shlex.quote(str(key))})" {options.url}/v1/devices',
        ]
    return "\n".join(lines)


async def run_children(options: UpOptions, database: Database, console: Console, heading: Callable[[], str]) -> None:
    """Start the children and show the site until told to stop; ``heading`` is asked when they run."""
    keeper = asyncio.create_task(database.keep_running(), name="keep the database running")
    try:
        given = options.settings.api_database_url  # (a refusal is told here: later it would only be in a log)
        gateway_dsn(database.dsn, options.settings.home, given=None if given is None else given.get_secret_value())
        made = await make_first_keys(database.dsn, options.settings)
        with stop_requested() as stop:
            async with children(options, database.dsn) as supervisor:
                console.print(heading(), soft_wrap=True)
                for line in told(made, show=console.is_terminal):
                    console.print(line, soft_wrap=True, markup=False, highlight=False)
                console.print("Ctrl-C stops everything; what was read is kept.\n")
                view = LiveView(console, tuple(supervisor.children), database.dsn, options.status_file, utc_now)
                await supervisor.while_accepted(view.run(stop, redraw=console.is_terminal))
                console.print("stopping …")
    finally:
        await stopped(keeper)


def utc_now() -> datetime:
    return datetime.now(UTC)
