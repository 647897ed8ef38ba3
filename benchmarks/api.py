"""The HTTP API against the same SQL through psycopg alone: four queries of a dashboard, and bulk inserts.

`flux serve` in a process of its own, as it is started by users, on a database with a month of readings of five meters
of 25 metrics; the client holds one connection open and reads the bytes of the answer. psycopg gets the same rows as
the same JSON text, and, for comparison, as rows into Python. All ask in turn in one run, of another day or device each
time, so that what drifts on the machine falls on them alike. The caller is a reader of one site: views, claims and row
filters are what they are for everybody.
"""

import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.queries import percentiles
from benchmarks.rollups import CLEAN, START, add_devices, fill
from psycopg import Connection

from flux.api.identity import Role
from flux.api.tokens import issue_token
from flux.store.db import connect_sync
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

DEVICES = 5
DAYS = 31
ROUNDS = 200
BATCH = 1000
BATCHES = 20
AIM_READING = 0.5
AIM_INSERT = 0.7
SECRET = "the secret of the benchmark's server, which nobody else knows"


@dataclass(frozen=True)
class Query:
    """``target``: of the URL; ``sql``: the same rows, without the JSON around them. Both from a day and a device."""

    name: str
    days: int
    target: Callable[[datetime, datetime, str], str]
    sql: str
    share: float = 1.0
    """Of the rounds: what is slow is asked less often."""


def _rpc(level: str, devices: bool) -> Callable[[datetime, datetime, str], str]:
    def target(start: datetime, end: datetime, device: str) -> str:
        given = {"start_time": start.isoformat(), "end_time": end.isoformat()}
        if devices:
            given["device_ids"] = f"{{{device}}}"
        return f"/rest/v1/rpc/get_meter_readings_{level}?{urlencode(given)}"

    return target


def _readings(start: datetime, end: datetime, device: str) -> str:
    given = [
        ("select", "time,power_total_active,energy_imported_active,mg_device_registry(name)"),
        ("device_id", f"eq.{device}"),
        ("time", f"gte.{start.isoformat()}"),
        ("time", f"lt.{end.isoformat()}"),
        ("order", "time.desc"),
        ("limit", "1000"),
    ]
    return f"/rest/v1/mg_meter_readings?{urlencode(given)}"


_ONE = "SELECT * FROM flux.get_meter_readings_{}(%(start)s, %(end)s, ARRAY[%(device)s]::uuid[])"
QUERIES = (
    Query("24 h of 5m of one device", 1, _rpc("5m", devices=True), _ONE.format("5m")),
    Query(
        "a month of 30m of a site of 5",
        DAYS,
        _rpc("30m", devices=False),
        "SELECT * FROM flux.get_meter_readings_30m(%(start)s, %(end)s)",
        share=0.1,
    ),
    Query("a month of 1h of one device", DAYS, _rpc("1h", devices=True), _ONE.format("1h"), share=0.5),
    Query(
        "the newest 1,000 readings of a device in a day",
        1,
        _readings,
        """SELECT time, power_total_active, energy_imported_active,
                  (SELECT row_to_json(d) FROM (SELECT name FROM flux.mg_device_registry WHERE id = device_id) d)
                  AS mg_device_registry
           FROM flux.mg_meter_readings WHERE device_id = %(device)s AND time >= %(start)s AND time < %(end)s
           ORDER BY time DESC LIMIT 1000""",
    ),
)


@dataclass
class Took:
    """Seconds of each call, by the way it was made."""

    http: list[float] = field(default_factory=list)
    text: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)


class Client:
    """One connection to the server; answers are bytes."""

    def __init__(self, port: int, token: str) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port)
        self._headers = {"apikey": token, "Authorization": f"Bearer {token}"}
        self._http.connect()
        self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        self._http.request(method, target, body, self._headers | more)
        answer = self._http.getresponse()
        text = answer.read()
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{method} {target}: {answer.status} {text[:300]!r}")
        return text


def _timed(into: list[float], ask: Callable[..., Any], *given: Any, **more: Any) -> Any:
    began = time.perf_counter()
    found = ask(*given, **more)
    into.append(time.perf_counter() - began)
    return found


def fetch(conn: Connection[Any], statement: str, given: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return conn.execute(statement.encode(), given).fetchall()


def ask_query(client: Client, conn: Connection[Any], query: Query, devices: list[str], rounds: int) -> Took:
    """HTTP, the same JSON through psycopg, the rows through psycopg, in turn."""
    chance = random.Random(1)
    took = Took()
    as_json = f"SELECT coalesce(json_agg(t), '[]')::text FROM ({query.sql}) t"
    for number in range(max(int(rounds * query.share), 20) + 2):
        start = START + timedelta(days=chance.randrange(DAYS - query.days + 1))
        device = chance.choice(devices)
        given = {"start": start, "end": start + timedelta(days=query.days), "device": device}
        target = query.target(given["start"], given["end"], device)  # type: ignore[arg-type]
        this = took if number > 1 else Took()  # the first two prepare statements and warm up
        answer = _timed(this.http, client.ask, "GET", target)
        ((text,),) = _timed(this.text, fetch, conn, as_json, given)
        rows = _timed(this.rows, fetch, conn, query.sql, given)
        assert len(json.loads(answer)) == len(json.loads(text)) == len(rows) > 0
    return took


def report(name: str, took: Took) -> None:
    p50, p99 = percentiles(took.http)
    alone, alone_p99 = percentiles(took.text)
    each = statistics.mean(took.http)
    ratio = statistics.mean(took.text) / each
    rows = statistics.mean(took.rows) / each
    print(
        f"{name}: {1 / each:,.0f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms; the same JSON through psycopg "
        f"p50 {alone:.1f} ms, p99 {alone_p99:.1f} ms: {ratio:.2f} of its throughput (aim >= {AIM_READING}); "
        f"{rows:.2f} of psycopg's with rows into Python"
    )


_COLUMNS = ("power_total_active", "frequency", "energy_imported_active", "energy_exported_active")


def make_batch(devices: list[str], number: int) -> list[dict[str, Any]]:
    """Readings of a time that has none, two microseconds apart so that each batch is of the same hour."""
    first = datetime(2026, 2, 10, tzinfo=UTC) + timedelta(hours=number)
    return [
        {
            "device_id": devices[n % len(devices)],
            "time": (first + timedelta(seconds=n)).isoformat(),
            **dict.fromkeys(_COLUMNS, 50 + n * 0.25),
        }
        for n in range(BATCH)
    ]


def insert_batches(client: Client, conn: Connection[Any], devices: list[str], batches: int) -> tuple[float, float]:
    """Median rows/s over HTTP and through psycopg, the same statement, of batches in turn."""
    took = Took()
    names = ", ".join(("device_id", "time", *_COLUMNS))
    # Supabase's clients name the columns of a list of rows
    target = f"/rest/v1/mg_meter_readings?columns={names.replace(' ', '')}"
    typed = "device_id uuid, time timestamptz, " + ", ".join(f"{name} double precision" for name in _COLUMNS)
    statement = (
        f"INSERT INTO flux.mg_meter_readings ({names}) SELECT {names} FROM json_to_recordset(%s::json) AS r ({typed})"
    ).encode()
    for number in range(batches + 2):
        over_http, alone = (json.dumps(make_batch(devices, 2 * number + n)).encode() for n in range(2))
        this = took if number > 1 else Took()
        told = {"Content_Type": "application/json", "Prefer": "return=minimal"}
        _timed(this.http, client.ask, "POST", target, over_http, **told)
        _timed(this.text, conn.execute, statement, (alone.decode(),))
    return BATCH / statistics.median(took.http), BATCH / statistics.median(took.text)


@contextmanager
def serving(dsn: str, home: Path) -> Iterator[int]:
    """`flux serve` in a process of its own; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    environment = {
        **os.environ,
        "FLUX_HOME": str(home),
        "FLUX_DATABASE_URL": dsn,
        "FLUX_JWT_SECRET": SECRET,
        **{f"FLUX_RATE_{role.name}": "off" for role in Role},  # its limits are not what is measured
    }
    command = [sys.executable, "-m", "flux", "serve", "--port", str(port)]
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log) as server,
    ):
        try:
            _wait_for(port, server)
            yield port
        finally:
            server.terminate()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("flux serve did not start")


def key(role: Role) -> str:
    now = datetime.now(UTC)
    return issue_token(
        SECRET.encode(),
        role=role,
        name="benchmark",
        issued_at=now,
        sites=["WLCE"],
        key_id=None,
        expires_at=now + timedelta(hours=2),
    )


def prepare(dsn: str) -> list[str]:
    """A month of readings with rollups; the devices' ids."""
    migrate(dsn)
    with connect_sync(dsn, autocommit=True) as conn:
        add_devices(conn, DEVICES)
        span = (START, START + timedelta(days=DAYS + 30))
        conn.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", span)
        fill(conn, DEVICES, 0, DAYS * 1440, CLEAN.counter)
        conn.execute("CALL flux.refresh_rollups()")
        conn.execute("VACUUM ANALYZE")
        return [row[0] for row in conn.execute("SELECT id::text FROM flux.mg_device_registry ORDER BY name")]


def main(rounds: int = ROUNDS, batches: int = BATCHES) -> None:
    """Print requests/s, p50, p99 and the ratio of each query; rows/s and the ratio of inserts."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder)) as server:
            devices = prepare(server.dsn)
            home = Path(folder) / "home"
            home.mkdir()
            with serving(server.dsn, home) as port, connect_sync(server.dsn, autocommit=True) as conn:
                reader = Client(port, key(Role.AUTHENTICATED))
                for query in QUERIES:
                    report(query.name, ask_query(reader, conn, query, devices, rounds))
                over_http, alone = insert_batches(Client(port, key(Role.SERVICE)), conn, devices, batches)
            print(
                f"inserts of {BATCH:,} rows of {len(_COLUMNS)} metrics: {over_http:,.0f} rows/s over HTTP, "
                f"{alone:,.0f} rows/s by the same INSERT through psycopg: {over_http / alone:.2f} (aim >= {AIM_INSERT})"
            )


if __name__ == "__main__":
    main()
