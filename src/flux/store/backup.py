"""Backup and restore of schema ``flux`` with PostgreSQL's own programs, from the wheel.

A backup file appears under its name when it is whole. A restore is one transaction: what was there stays until all of
the backup is in. Passwords travel in the environment of the child process, never among its arguments.
"""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flux.errors import ConflictError, InputError, RefusedError, UnavailableError
from flux.store.binaries import wheel_binaries
from flux.store.db import connect_sync
from flux.store.migrate import known_versions, migrate
from flux.store.rights import ROLES

_logger = structlog.get_logger(__name__)
_LOCK_TIMEOUT = "10s"
_ARCHIVE_MAGIC = b"PGDMP"
_OF_API_ROLES = re.compile(rb'(GRANT|REVOKE) .* (TO|FROM) "?(%s|flux_gateway_.*)"?;$' % "|".join(ROLES).encode())


@dataclass(frozen=True, slots=True)
class Contents:
    """What a database holds: enough to see that a restore brought it all."""

    schema_version: str | None
    devices: int
    meter_readings: int
    bess_readings: int


def client_command(program: str, dsn: str) -> tuple[list[str], dict[str, str]]:
    """The start of a command line of psql, pg_dump or pg_restore for ``dsn``, and the environment to run it in."""
    parameters = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    password = parameters.pop("password", None)
    environment = {**os.environ, "PGAPPNAME": f"flux {program}"}
    if password is not None:
        environment["PGPASSWORD"] = password
    command = [str(wheel_binaries().program(program)), f"--dbname={make_conninfo(**parameters)}"]
    return command, environment


def backup(dsn: str, target: Path, *, force: bool = False) -> int:
    """Write everything in schema flux to ``target``, as it is at one moment; returns the file's size in bytes.

    ConflictError if the file exists (unless ``force``); after any error what was there is still there.
    """
    if target.is_dir():
        raise InputError(f"{target} is a folder: name a file in it")
    if target.exists() and not force:
        raise ConflictError(f"{target} exists: give another name, or --force to replace it")
    if not target.parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist")
    if describe(dsn).schema_version is None:
        raise RefusedError("there is nothing to back up: the database has no schema flux")
    command, environment = client_command("pg_dump", dsn)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)  # mode 0600
    os.close(handle)
    partial = Path(name)
    try:
        # by --file, not on stdout: pg_dump then goes back to write where each table's data begins, and syncs the file
        options = ["--format=custom", "--schema=flux", "--no-owner", f"--lock-wait-timeout={_LOCK_TIMEOUT}"]
        options += ["--exclude-table-data=flux.changes"]  # transactions of this server, which mean nothing to another
        _run([*command, *options, f"--file={partial}"], environment)
        _run([str(wheel_binaries().program("pg_restore")), "--list", str(partial)], environment)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return target.stat().st_size


def restore(dsn: str, source: Path, *, force: bool = False) -> Contents:
    """Put a backup into the database, bring its schema up to date, and tell what is in it then.

    RefusedError if schema flux holds anything, unless ``force``: then the backup takes its place. A backup made by a
    newer Flux is refused. One transaction: after any error the database is as it was.
    """
    if not source.is_file():
        raise InputError(f"{source}: " + ("is a folder, not a backup" if source.is_dir() else "there is no such file"))
    _check_archive(source)
    if describe(dsn).schema_version is not None and not force:
        raise RefusedError("the database holds a schema flux already: --force replaces all of it by the backup")
    _restore_in_one_transaction(dsn, source)
    migrate(dsn)
    with connect_sync(dsn, autocommit=True) as conn:  # cursors of realtime pointed into the log of what was there
        conn.execute("UPDATE flux.change_log SET epoch = gen_random_uuid(), trimmed = '0'")
    contents = describe(dsn)
    _logger.info("database restored", source=str(source), meter_readings=contents.meter_readings)
    return contents


def describe(dsn: str) -> Contents:
    """Count what is there; zeros where there is no schema."""
    with connect_sync(dsn, autocommit=True) as conn:
        if conn.execute("SELECT to_regclass('flux.schema_version')").fetchone() == (None,):
            return Contents(None, 0, 0, 0)
        row = conn.execute(
            """SELECT (SELECT version_num FROM flux.schema_version), (SELECT count(*) FROM flux.mg_device_registry),
                      (SELECT count(*) FROM flux.mg_meter_readings), (SELECT count(*) FROM flux.mg_bess_readings)"""
        ).fetchone()
    return Contents(*(row or (None, 0, 0, 0)))


def _check_archive(source: Path) -> None:
    """Raise InputError for a file that is no backup, before the database is asked anything."""
    try:
        with source.open("rb") as file:
            magic = file.read(5)
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from None
    if magic != _ARCHIVE_MAGIC:
        raise InputError(f"{source}: is not a file that `flux db backup` wrote")


def _restore_in_one_transaction(dsn: str, source: Path) -> None:
    """pg_restore turns the file into SQL, psql runs that between our own first and last statement."""
    versions = ", ".join(f"'{version}'" for version in known_versions())
    check = f"""DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM flux.schema_version WHERE version_num IN ({versions})) THEN
            RAISE EXCEPTION 'the backup was made by a newer Flux, or is no backup of Flux';
        END IF; END $$"""
    psql, environment = client_command("psql", dsn)
    environment["PGOPTIONS"] = f"{environment.get('PGOPTIONS', '')} -c lock_timeout={_LOCK_TIMEOUT}".strip()
    psql += ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", "--output=/dev/null"]
    psql += ["--command=SET client_min_messages = warning", "--command=DROP SCHEMA IF EXISTS flux_api, flux CASCADE"]
    psql += ["--file=-", f"--command={check}"]
    with tempfile.TemporaryFile() as script:
        _run(
            [str(wheel_binaries().program("pg_restore")), "--no-owner", "--file=-", str(source)],
            environment,
            stdout=script,
        )
        script.seek(0)
        with tempfile.TemporaryFile() as portable:
            _leave_out_what_is_of_its_server(script, portable)
            portable.seek(0)
            _run(psql, environment, stdin=portable)


def _leave_out_what_is_of_its_server(script: IO[bytes], portable: IO[bytes]) -> None:
    """Settings that an earlier server has no word for, and rights of the API's roles: another server may lack them.

    The migration that follows gives those rights anew. Rows of tables are passed on as they are.
    """
    rows = False
    for line in script:
        if rows:
            rows = line != b"\\.\n"
        elif line.startswith(b"SET transaction_timeout = ") or _OF_API_ROLES.match(line):  # PostgreSQL 17 and newer
            continue
        else:
            rows = line.startswith(b"COPY flux.") and line.endswith(b" FROM stdin;\n")
        portable.write(line)


def _run(command: list[str], environment: dict[str, str], **streams: object) -> None:
    """Run one of PostgreSQL's programs; what it says on its way out becomes the error."""
    arguments = {"stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL, **streams}
    result = subprocess.run(  # type: ignore[call-overload]  # noqa: S603 - fixed programs, no shell
        command, env=environment, stderr=subprocess.PIPE, text=True, check=False, **arguments
    )
    if result.returncode != 0:
        said = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        program = Path(command[0]).name
        reason = " | ".join(said[:3]) or f"it ended with code {result.returncode}"
        raise UnavailableError(f"{program}: {reason}")
