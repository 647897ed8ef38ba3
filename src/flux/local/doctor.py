"""What is wrong with an installation, and what to do about it.

Each check gives findings; none of them changes anything, and one that fails never hides the next.
"""

import asyncio
import os
import platform
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from flux.config import Settings
from flux.devices.client import ConnectionPool
from flux.devices.driver import DeviceDriver
from flux.devices.template import builtin_template
from flux.errors import FluxError
from flux.local.ports import require_safe, url_of
from flux.model import Device
from flux.registry import list_devices
from flux.store import queries
from flux.store.db import connect, resolve_dsn, told_plainly
from flux.store.migrate import SchemaStatus, status

_MIN_POSTGRES = 150000
_DISK_FAIL_BYTES = 200 * 1024**2
_DISK_WARN_BYTES = 2 * 1024**3
_CLOCK_TOLERANCE = timedelta(seconds=2)
_LATE_ROLLUPS_S = 300
_LATE_JOB_TURNS = 3
_LATE_JOB_S = 300
_DEVICE_TIMEOUT_S = 10
_PARALLEL_DEVICES = 16


class Grade(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report; ``advice`` says what to do, empty where all is well."""

    check: str
    grade: Grade
    message: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def ok(check: str, message: str) -> Finding:
    return Finding(check, Grade.OK, message)


def warning(check: str, message: str, advice: str) -> Finding:
    return Finding(check, Grade.WARNING, message, advice)


def problem(check: str, message: str, advice: str) -> Finding:
    return Finding(check, Grade.PROBLEM, message, advice)


async def examine(settings: Settings, clock: Callable[[], datetime]) -> AsyncIterator[Finding]:
    """All findings, in the order in which a person would mend them."""
    yield ok("python", f"{platform.python_version()} on {platform.machine()}")
    yield check_home(settings.home)
    yield check_disk(settings.home)
    yield check_port(settings)
    try:
        dsn = resolve_dsn(settings)
        conn = await connect(dsn, application_name="flux doctor", autocommit=True)
    except FluxError as error:
        own = settings.database_url is not None
        advice = "mend FLUX_DATABASE_URL, or start that server" if own else "start Flux with `flux up`"
        yield problem("database", str(error), advice)
        return
    async with conn:
        yield check_version(conn)
        try:
            with told_plainly():
                schema = await asyncio.to_thread(status, dsn)
        except FluxError as error:
            yield problem("schema", str(error), "use a user with rights on schema flux, such as its owner")
            return
        yield check_schema(schema)
        if schema.current:
            async for finding in examine_contents(conn, clock):
                yield finding


async def examine_contents(conn: AsyncConnection[Any], clock: Callable[[], datetime]) -> AsyncIterator[Finding]:
    """Clock, rollups, rejected readings, the workers' jobs, devices."""
    yield await check_clock(conn, clock)
    yield await check_rollups(conn)
    yield await check_rejected(conn)
    for finding in await check_jobs(conn):
        yield finding
    for finding in await check_devices(await list_devices(conn), clock):
        yield finding


def check_home(home: Path) -> Finding:
    """Whether the folder of the database and the outbox can be written, or made."""
    folder = _existing(home)
    if not os.access(folder, os.W_OK | os.X_OK):
        return problem("home", f"FLUX_HOME={home}: {folder} cannot be written", "set FLUX_HOME to a folder of yours")
    return ok("home", f"{home.absolute()}" + ("" if home.exists() else " (made when it is needed)"))


def _existing(home: Path) -> Path:
    """``home``, or the nearest folder above it that is there."""
    return next(path for path in (home.absolute(), *home.absolute().parents) if path.exists())


def check_disk(home: Path) -> Finding:
    """Space where the database and the outbox live."""
    folder = _existing(home)
    free = shutil.disk_usage(folder).free
    message = (
        f"{free / 1024**3:.1f} GiB free in {folder}"
        if free >= 1024**3
        else f"{free / 1024**2:.0f} MiB free in {folder}"
    )
    if free < _DISK_FAIL_BYTES:
        return problem("disk", message, "make room: the outbox and the database are about to stop")
    if free < _DISK_WARN_BYTES:
        return warning("disk", message, "make room soon: a meter makes some 20 MB a month, with rollups")
    return ok("disk", message)


def check_port(settings: Settings) -> Finding:
    """HTTP's port: free, or answered by a Flux that runs."""
    host, port, url = settings.http_host, settings.http_port, url_of(settings)
    try:
        require_safe(settings)
        with socket.create_connection((host, port), timeout=1.0):
            taken = True
    except FluxError as error:
        return problem("http", str(error), "set FLUX_HTTP_HOST to 127.0.0.1, or give it TLS")
    except OSError:
        taken = False
    if not taken:
        return ok("http", f"port {port} on {host} is free; nothing is serving")
    if _answers_as_flux(url):
        return ok("http", f"Flux answers on {url}")
    return problem("http", f"port {port} on {host} is used by another program", "set FLUX_HTTP_PORT to another")


def _answers_as_flux(url: str) -> bool:
    import httpx

    try:  # whoever answers is told nothing, so whose certificate it has does not matter
        answer = httpx.get(f"{url}/healthz", timeout=3.0, trust_env=False, verify=False)  # noqa: S501
    except httpx.HTTPError:
        return False
    return answer.is_success and "version" in answer.text


def check_version(conn: AsyncConnection[Any]) -> Finding:
    version = conn.info.server_version
    text = f"PostgreSQL {version // 10000}.{version % 10000} answers"
    if version < _MIN_POSTGRES:
        return problem("database", text, "Flux needs PostgreSQL 15 or newer")
    return ok("database", text)


def check_schema(schema: SchemaStatus) -> Finding:
    if schema.current:
        return ok("schema", f"version {schema.version}")
    missing = [*schema.pending, *schema.missing_columns, *schema.stale_objects]
    message = (
        f"is at {schema.version or 'nothing'}, this Flux needs {schema.newest} ({', '.join(missing) or 'newer Flux'})"
    )
    return problem("schema", message, "`flux db migrate`")


async def check_clock(conn: AsyncConnection[Any], clock: Callable[[], datetime]) -> Finding:
    """This machine's clock against the database's."""
    before = clock()
    row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    difference = (row[0] if row else before) - (before + (clock() - before) / 2)
    message = (
        f"{abs(difference).total_seconds():.1f} s {'behind' if difference > timedelta() else 'ahead of'} the database's"
    )
    if abs(difference) > _CLOCK_TOLERANCE:
        return problem("clock", message, "let both follow a time server (chrony, systemd-timesyncd)")
    return ok("clock", "agrees with the database's")


async def check_rollups(conn: AsyncConnection[Any]) -> Finding:
    behind = await queries.rollup_lag_s(conn)
    if behind > _LATE_ROLLUPS_S:
        return warning(
            "rollups", f"{behind:.0f} s behind", "is `flux worker` running? `CALL flux.refresh_rollups()` does it once"
        )
    return ok("rollups", f"{behind:.0f} s behind")


async def check_rejected(conn: AsyncConnection[Any]) -> Finding:
    row = await (
        await conn.execute("SELECT count(*), max(reason) FROM flux.rejected_readings WHERE status = 'pending'")
    ).fetchone()
    count, example = row or (0, None)
    if count:
        return warning(
            "rejected", f"{count} readings were refused, e.g. {example}", "`flux readings rejected` lists them"
        )
    return ok("rejected", "no reading waits for a decision")


async def check_jobs(conn: AsyncConnection[Any]) -> list[Finding]:
    """What the workers do in the background: each job that fails, and each that has not been done for long."""
    findings = []
    for row in await queries.worker_jobs(conn):
        name, age_s = f"job {row['name']}", row["age_s"]
        last = "never succeeded" if age_s is None else f"last succeeded {age_s:.0f} s ago"
        if row["failure"] is not None:
            findings.append(warning(name, f"{last}: {row['failure']}", "tried again by itself; mend what it names"))
        elif age_s is not None and age_s > max(_LATE_JOB_TURNS * row["every_s"], _LATE_JOB_S):
            findings.append(warning(name, last, "is `flux worker` running, with the same file?"))
        else:
            findings.append(ok(name, last))
    return findings


async def check_devices(devices: list[Device], clock: Callable[[], datetime]) -> list[Finding]:
    """One poll of every device that should answer, some at a time."""
    polled = [device for device in devices if device.polled]
    if not polled:
        return [warning("devices", f"none of {len(devices)} devices is polled", "`flux devices add --help`")]
    slots = asyncio.Semaphore(_PARALLEL_DEVICES)
    pool = ConnectionPool()
    try:
        return await asyncio.gather(*(_check_device(device, pool, slots, clock) for device in polled))
    finally:
        await pool.aclose()


async def _check_device(
    device: Device, pool: ConnectionPool, slots: asyncio.Semaphore, clock: Callable[[], datetime]
) -> Finding:
    metadata = device.metadata
    where = f"{metadata.host}:{metadata.port} unit {metadata.modbus_address}"
    if metadata.host is None or metadata.template_name is None:
        return problem(device.name, "its host or template is not set", f"`flux devices show {device.name}`")
    try:
        async with slots, asyncio.timeout(_DEVICE_TIMEOUT_S):
            driver = DeviceDriver(
                device, builtin_template(metadata.template_name), pool.get(metadata.host, metadata.port), clock
            )
            poll = await driver.poll()
    except (FluxError, TimeoutError) as error:
        reason = str(error) or f"no answer within {_DEVICE_TIMEOUT_S} s"
        return problem(device.name, f"{where}: {reason}", "check power, cable, address and unit id")
    if poll.problems:
        return warning(device.name, f"{where}: {'; '.join(poll.problems)}", "check its template and wiring")
    return ok(device.name, f"{where} answers in {poll.response_time_s * 1000:.0f} ms")


def utc_now() -> datetime:
    return datetime.now(UTC)
