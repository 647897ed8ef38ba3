"""The embedded PostgreSQL server: one per home folder, shared by every process that uses that home.

::

    with EmbeddedServer(Path(".flux")) as server:   # starts it, or attaches to the one that runs
        psycopg.connect(server.dsn)                 # the last user to leave stops it

Two locks (``flock``, so that the kernel releases them whatever happens to a process) decide everything:

``users.lock``   each user of the home holds it shared; who leaves and can take it whole was the last, and stops it
``server.lock``  handed down to the server and its children: free exactly when no server runs, even after a SIGKILL or a
                 power loss, and even if ``postmaster.pid`` names a process that has since become somebody else
"""

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote

import psycopg
import structlog

from flux.errors import InputError, UnavailableError
from flux.store.binaries import Binaries, ServerUser, choose_user, run_as, server_binaries, shared_root

_logger = structlog.get_logger(__name__)

DATABASE = "flux"
SUPERUSER = "flux"
_SOCKET_PATH_LIMIT = 107  # bytes of a unix socket's path, on Linux; 103 elsewhere, see `_socket_folder`
_SOCKET_PREFIX = "flux-socket-"
_POLL_S = 0.02
_LOG_ROTATE_BYTES = 10_000_000
_NEW_DATABASE_BYTES = 100 * 1024**2
"""What initdb and the first migration write, and some."""

# Written to postgresql.conf when the folder is made, so that an owner may change them there. A site's machine is small.
_TUNING = {
    "shared_buffers": "128MB",
    "max_connections": "60",
    "wal_compression": "on",
    "max_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "effective_io_concurrency": "16",
    "random_page_cost": "1.5",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %a ",
    "log_checkpoints": "off",
}
_FAST_UNSAFE = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum_naptime": "60s",
    "max_wal_size": "2GB",
}


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """What ``postmaster.pid`` says of a server that runs."""

    pid: int
    data: Path
    port: int
    socket_folder: str
    ready: bool


def _read_postmaster(data: Path) -> _Postmaster | None:
    """``None`` where there is no such file or it is half written."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(lines) < 8 or not (lines[0].isdigit() and lines[3].isdigit()):
        return None
    return _Postmaster(int(lines[0]), Path(lines[1]), int(lines[3]), lines[4].strip(), lines[7].strip() == "ready")


class EmbeddedServer:
    """PostgreSQL in the folder ``home``; see the module's docstring.

    ``loopback_port``: listen on 127.0.0.1 at this port as well (the default is the socket alone).
    ``fast_unsafe``: for tests; a crash of the machine may lose data.
    ``settings``: server settings that win over everything else.
    """

    def __init__(
        self,
        home: Path,
        *,
        loopback_port: int | None = None,
        fast_unsafe: bool = False,
        settings: dict[str, str] | None = None,
    ) -> None:
        self._home = home.absolute()
        self._loopback_port = loopback_port
        self._fast_unsafe = fast_unsafe
        self._settings = {**(_FAST_UNSAFE if fast_unsafe else {}), **(settings or {})}
        self._base: Path | None = None
        self._users: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "EmbeddedServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        """Where data, password, log and locks are: ``home/postgres``, or where that says they are."""
        return self._base or existing_folder(self._home)

    @property
    def dsn(self) -> str:
        """How to connect to it, password included; raises UnavailableError unless it runs."""
        return running_dsn(self._home)

    @property
    def pid(self) -> int:
        """The process id of the server; raises UnavailableError unless it runs."""
        running = _read_postmaster(self.folder / "data")
        if running is None:
            raise UnavailableError(f"no database server runs in {self.folder}")
        return running.pid

    def start(self) -> bool:
        """Start the server, or attach to the one that runs in this home; True where we started it.

        Waits for as long as the server lives and recovers. Raises UnavailableError with the end of the server's
        log when it does not start. Called again, it starts a server that has died meanwhile.
        """
        user = choose_user(existing_folder(self._home) / "data")
        if self._users is not None:
            return self._start_or_attach(user)
        self._base = _prepare_folder(self._home, user)
        self._users = (self._base / "users.lock").open("ab")
        try:
            fcntl.flock(self._users, fcntl.LOCK_SH)  # waits while the last user before us stops the server
            return self._start_or_attach(user)
        except BaseException:
            self._users.close()
            self._users = None
            raise

    def stop(self) -> bool:
        """Leave; the last user stops the server and waits until it is down. True where that was us."""
        if self._users is None:
            return False
        users, self._users = self._users, None
        with users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._leave_running()
                return False
            self._shut_down()
        return True

    def _start_or_attach(self, user: ServerUser) -> bool:
        with (self.folder / "server.lock").open("ab") as lock:
            while not _try_lock(lock):
                if self._answers():
                    _logger.debug("database server runs already", folder=str(self.folder))
                    return False
                time.sleep(_POLL_S)
            self._clear_remains()
            self._launch(user, lock)
        self._wait_until_ready()
        _ensure_database(running_dsn(self._home, "postgres"))
        _logger.info("database server started", folder=str(self.folder))
        return True

    def _clear_remains(self) -> None:
        """Nobody runs it and nobody else can start it now: what a server that was killed has left says nothing.

        PostgreSQL would believe its lock files if their pid is alive, be it a stranger's or a zombie's.
        """
        remains = _read_postmaster(self.folder / "data")
        if remains is not None and remains.data == self.folder / "data":  # else of the home that this is a copy of
            self._remove_sockets(remains)
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _remove_sockets(self, postmaster: _Postmaster) -> None:
        folder = Path(postmaster.socket_folder)
        if not folder.is_relative_to(self.folder) and folder.name.startswith(_SOCKET_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)

    def _answers(self) -> bool:
        running = _read_postmaster(self.folder / "data")
        if running is None or not running.ready:
            return False
        try:
            # whoever started it may have been killed before the database was made
            _ensure_database(running_dsn(self._home, "postgres"))
        except psycopg.OperationalError as error:
            if "authentication failed" in str(error):
                raise UnavailableError(f"{self.folder / 'password'} is not the password of the server there") from None
            return False
        return True

    def _launch(self, user: ServerUser, lock: IO[bytes]) -> None:
        binaries = server_binaries(user)
        data = self.folder / "data"
        if not data.exists():
            _make_data(self.folder, binaries, user, lock, sync=not self._fast_unsafe)
        _check_version(data, binaries, user)
        sockets = _socket_folder(self.folder, user)
        log = self.folder / "server.log"
        if log.exists() and log.stat().st_size > _LOG_ROTATE_BYTES:
            log.replace(log.with_suffix(".log.1"))
        command = [str(binaries.program("postgres")), "-D", str(data), *self._options(sockets)]
        with log.open("ab") as output:
            # A session of its own: Ctrl-C in a terminal must reach us alone, and we stop the server last.
            self._process = subprocess.Popen(  # noqa: S603 - a fixed program, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                env=_server_environment(),
                **user.popen_arguments(),
            )

    def _options(self, sockets: Path) -> Iterator[str]:
        options = {
            "listen_addresses": "127.0.0.1" if self._loopback_port else "",
            "port": str(self._loopback_port or 5432),
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            **self._settings,
        }
        for name, value in options.items():
            yield from ("-c", f"{name}={value}")

    def _wait_until_ready(self) -> None:
        """No cut-off: recovery takes what it takes; only the end of the process ends the wait."""
        process = self._process
        assert process is not None  # noqa: S101 - set by _launch
        while process.poll() is None:
            running = _read_postmaster(self.folder / "data")
            if running is not None and running.pid == process.pid and running.ready:
                return
            time.sleep(_POLL_S)
        self._process = None
        raise UnavailableError(f"PostgreSQL in {self.folder} did not start: {log_tail(self.folder / 'server.log')}")

    def _shut_down(self) -> None:
        running = _read_postmaster(self.folder / "data")
        with (self.folder / "server.lock").open("ab") as lock:
            if running is not None and not _try_lock(lock):
                _signal(running.pid, signal.SIGINT)  # fast: open transactions are rolled back
                self._wait_until_down(lambda: _try_lock(lock), running.pid)
        if self._process is not None:
            self._process.wait()
            self._process = None
        if running is not None:
            self._remove_sockets(running)
        _logger.info("database server stopped", folder=str(self.folder))

    def _leave_running(self) -> None:
        """It is our child all the same: somebody must take note when it ends, or it stays as a zombie."""
        process, self._process = self._process, None
        if process is not None:
            threading.Thread(target=process.wait, name="flux-postgres-reaper", daemon=True).start()
        _logger.info("database server goes on, others use it", folder=str(self.folder))

    def _wait_until_down(self, down: Callable[[], bool], pid: int, patience_s: float = 60) -> None:
        deadline = time.monotonic() + patience_s
        while not down():
            if time.monotonic() > deadline:
                _logger.warning("database server does not stop, told to quit at once", pid=pid)
                _signal(pid, signal.SIGQUIT)  # immediate: recovers at the next start
                deadline = float("inf")
            time.sleep(_POLL_S)


def has_database(home: Path) -> bool:
    """Whether a server was ever started in ``home``; True as well where we may not look."""
    try:
        return (existing_folder(home) / "data").exists()
    except PermissionError:
        return True


def existing_folder(home: Path) -> Path:
    """Where the server's folder of ``home`` is, or would be; touches nothing."""
    folder = home.absolute() / "postgres"
    pointer = home.absolute() / "postgres-is-in"
    named = pointer.read_text().strip() if pointer.exists() else ""
    return Path(named) if named else folder


def running_dsn(home: Path, database: str = DATABASE) -> str:
    """How to reach the server that runs in ``home``; UnavailableError where none does.

    Any process of the same user may call it: password and socket are found in the folder.
    """
    folder = existing_folder(home)
    try:
        running = _read_postmaster(folder / "data")
        password = (folder / "password").read_text().strip() if running else ""
    except PermissionError as error:
        raise UnavailableError(f"the database of {home} belongs to another user: {error.filename}") from None
    if running is None:
        raise UnavailableError(f"no database server runs in {home}: start one with `flux up`, or set FLUX_DATABASE_URL")
    where = f"host={quote(running.socket_folder, safe='')}&port={running.port}"
    return f"postgresql://{SUPERUSER}:{password}@/{database}?{where}"


def log_tail(log: Path, lines: int = 5) -> str:
    """The last lines of the server's log, as one line for an error."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4000))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "it wrote no log"
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip()) or "its log is empty"


def _signal(pid: int, number: signal.Signals) -> None:
    """A server that was killed may be gone before its children, which end by themselves and free the lock then."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _private_umask() -> Iterator[None]:
    """Files made meanwhile are for their owner only."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _prepare_folder(home: Path, user: ServerUser) -> Path:
    """Make the server's folder, in ``home`` where its user can reach that, else in a place that it can."""
    if not has_database(home):
        _check_room(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        folder = existing_folder(home)
        if not folder.exists() and not user.can("-x", home):
            folder = Path(tempfile.mkdtemp(prefix="database-", dir=shared_root()))
            _write_whole(home / "postgres-is-in", f"{folder}\n")
            _logger.warning("the server's user cannot reach the home", home=str(home), database_is_in=str(folder))
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid == os.geteuid():
            user.own(folder)
    except OSError as error:
        raise InputError(f"FLUX_HOME={home} cannot be used: {error.strerror}: {error.filename}") from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise UnavailableError(f"the database in {folder} belongs to another user: run Flux as that user")
    return folder


def _check_room(home: Path) -> None:
    """Raise before anything is made where a new database would not fit."""
    there = next(path for path in (home, *home.parents) if path.exists())
    disk = shutil.disk_usage(there)
    free = disk.free
    if disk.total and free < _NEW_DATABASE_BYTES:
        raise UnavailableError(
            f"no space for a database in FLUX_HOME={home}: {free / 1024**2:.0f} MiB are free, "
            f"{_NEW_DATABASE_BYTES // 1024**2} MiB are needed; make room, or name another folder"
        )


def _make_data(folder: Path, binaries: Binaries, user: ServerUser, lock: IO[bytes], *, sync: bool) -> None:
    """initdb, in a folder that gets its name when it is whole; a random password, kept in a file of mode 0600.

    initdb holds the lock as the server does: it goes on if we are killed, and nobody may begin anew beside it.
    """
    password = secrets.token_urlsafe(24)
    fresh = folder / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    for left in folder.glob("password-*"):
        left.unlink()
    with _private_umask(), tempfile.NamedTemporaryFile("w", dir=folder, prefix="password-") as file:
        file.write(password)
        file.flush()
        user.own(Path(file.name))
        command = [str(binaries.program("initdb")), "-D", str(fresh), f"--username={SUPERUSER}"]
        command += ["--auth=scram-sha-256", f"--pwfile={file.name}", "--data-checksums", "--encoding=UTF8"]
        command += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        command += [] if sync else ["--no-sync"]
        command += [f"--set={name}={value}" for name, value in _TUNING.items()]
        result = run_as(user, command, env=_server_environment(), pass_fds=(lock.fileno(),))
    if result.returncode != 0:
        shutil.rmtree(fresh, ignore_errors=True)
        said = " | ".join(result.stderr.strip().splitlines()[-3:])
        raise UnavailableError(f"PostgreSQL could not make its folder {fresh}: {said}")
    with _private_umask():
        _write_whole(folder / "password", f"{password}\n")
    fresh.rename(folder / "data")
    _sync(folder)


def _write_whole(file: Path, text: str) -> None:
    """Written, or not there: neither a kill, a full disk nor a power loss leaves an empty file."""
    new = file.with_name(f"{file.name}.new")
    with new.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
    _sync(file.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_version(data: Path, binaries: Binaries, user: ServerUser) -> None:
    made_by = (data / "PG_VERSION").read_text().strip()
    version = binaries.version(user) or ""
    if version.split(".")[0] != made_by:
        raise UnavailableError(
            f"{data} was made by PostgreSQL {made_by}, these programs are {version}: install the earlier Flux, "
            f"run `flux db backup`, then restore with this one"
        )


def _socket_folder(folder: Path, user: ServerUser) -> Path:
    """``folder/run``, or a short private folder where the socket's path would be too long for the kernel."""
    sockets = folder / "run"
    if len(os.fsencode(sockets / ".s.PGSQL.65535.lock")) <= _SOCKET_PATH_LIMIT - 4:
        sockets.mkdir(mode=0o700, exist_ok=True)
    else:
        sockets = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX))
    if sockets.stat().st_uid == os.geteuid():
        user.own(sockets)
    return sockets


def _server_environment() -> dict[str, str]:
    """Nothing of ours goes into the server: PG… variables would change it, secrets do not belong to it."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}


def _ensure_database(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext('flux.database'))")  # who starts it and who attaches
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        if known is None:
            connection.execute(f'CREATE DATABASE "{DATABASE}"')
            connection.execute(f'REVOKE ALL ON DATABASE "{DATABASE}" FROM PUBLIC')
