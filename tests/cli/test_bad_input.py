"""A new user who does everything wrong: each time one clear line, an exit code, and nothing begun.

Every case runs the real command in a folder of its own, with ``FLUX_HOME`` a folder in it that is not there yet. What
is in that folder afterwards must be what was in it before.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.devices.simulator.test_process import free_ports

pytestmark = pytest.mark.timeout(120)

SECRET = "hunter2-secret"
DEAD = f"postgresql://flux:{SECRET}@127.0.0.1:1/flux"
REFUSED = 'connection to server at "127.0.0.1", port 1 failed: Connection refused; check that it runs and its address'
DEAD_LINE = f"database flux@127.0.0.1:1/flux does not answer: {REFUSED}"
NOT_A_DSN = "FLUX_DATABASE_URL is not a connection string; write it like postgresql://user:password@host:5432/database"

PLAN = """\
site: WLCE
controller:
  site_meter: WLCE-GRID-METRE
  bess: [WLCE-BESS-99]
  battery: {capacity_kwh: 500, charge_limit_kw: 100, discharge_limit_kw: 105}
  site: {import_limit_kw: 220, export_limit_kw: 475}
  modes:
    - {mode: import_avoidance, periods: [{days: all, start: "16:00", end: "21:00"}]}
"""
FILES = {
    "type.yaml": "device_template:\n  type: inverter\n  manufacturer: Acme\n  registers: {soe: 2026}\n",
    "register-type.yaml": "type: bess\nmanufacturer: Acme\nregisters:\n  - {name: soe, address: 1, type: uint17}\n",
    "overlap.yaml": "type: bess\nmanufacturer: Acme\nregisters:\n  - {name: soe, address: 10, type: float32}\n"
    "  - {name: target_power, address: 11, type: int16, unit: kW}\n",
    "misspelt.yaml": "device_template:\n  type: bess\n  manufacter: Acme\n  registers: {soe: 2026}\n",
    "metric.yaml": "type: meter\nmanufacturer: Acme\nregisters:\n"
    "  - {name: power_total_actve, address: 10, type: float32}\n",
    "twice.yaml": "type: meter\ntype: bess\nmanufacturer: Acme\nregisters: {soe: 2}\n",
    "empty.yaml": "",
    "list.yaml": "- type: bess\n",
    "site.yaml": "site: WLCE\n",
    "plan.yaml": PLAN,
    "site-key.yaml": "site: WLCE\nrecording: {poling_interval: 30s}\n",
    "site-variable.yaml": "site: WLCE\nplatform: {database_url_env: NO_SUCH_VARIABLE}\n",
    "site-mode.yaml": PLAN.replace("mode: import_avoidance", "mode: import_avoidence"),
    "site-time.yaml": PLAN.replace("21:00", "25:00"),
    "steps.jsonl": "not json\n",
    "load.csv": "UTCTime,energy\n2024-01-01T00:00,abc\n",
    "not-a.dump": "hello",
    "a-file": "",
    "folder/file": "",
}


@dataclass(frozen=True)
class Case:
    """``says`` is all of standard error after ``error: ``; one that ends with … is its beginning."""

    command: str
    code: int
    says: str
    env: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = " ".join(f"{k}={v}" for k, v in self.env.items() if k != "FLUX_DATABASE_URL")
        dsn = " (DSN)" if "FLUX_DATABASE_URL" in self.env else ""
        return f"{settings} {self.command}".strip() + dsn


def dead(command: str, says: str = DEAD_LINE) -> Case:
    return Case(command, 6, says, {"FLUX_DATABASE_URL": DEAD})


def dsn_case(dsn: str, code: int, says: str, command: str = "db status") -> Case:
    return Case(command, code, says, {"FLUX_DATABASE_URL": dsn})


TEMPLATES = [
    Case(f"templates check {file}", 2, f"{file}{says}")
    for file, says in {
        "type.yaml": ":2: device_template.type: 'inverter': input should be 'bess' or 'meter'",
        "register-type.yaml": ":4: registers[0].type: 'uint17': input should be 'uint16', …",
        "overlap.yaml": ":5: registers[1].address: 11: target_power (int16 at 11) overlaps soe (float32 at 10 to 11); "
        "correct the address or the type of one",
        "misspelt.yaml": ":3: device_template.manufacter: unknown key; did you mean 'manufacturer'?",
        "metric.yaml": ":4: registers[0].name: 'power_total_actve' is not a name that Flux records; did you mean "
        "'power_total_active'? If not, set `diagnostic: true` on it",
        "twice.yaml": ':2: found duplicate key "type" …',
        "empty.yaml": ":1: file: expected keys and values, found nothing",
        "list.yaml": ":1: file: expected keys and values, found a list",
        "none.yaml": ": No such file or directory",
        "folder": ": Is a directory",
    }.items()
]
BAD_SITE = {
    "none.yaml": ": No such file or directory",
    "site-key.yaml": ":2: recording.poling_interval: unknown key; did you mean 'polling_interval'?",
    "site-mode.yaml": ":8: controller.modes[0].mode: 'import_avoidence': did you mean 'import_avoidance'? one of …",
    "site-time.yaml": ":8: controller.modes[0].periods[0].end: '25:00': not a time of day; it must be from …",
}
SITES = [
    Case(f"{command} {file}", 2, f"{file}{says}")
    for command, file in (
        ("edge --site", "none.yaml"),
        ("edge --site", "site-key.yaml"),
        ("up --site", "site-mode.yaml"),
        ("up --site", "site-time.yaml"),
    )
    for says in (BAD_SITE[file],)
]
SITES += [
    Case("edge", 2, "--site is missing: flux edge --site site.yaml"),
    Case(
        "edge --site site-variable.yaml",
        2,
        "site-variable.yaml:2: platform.database_url_env: the environment variable NO_SUCH_VARIABLE is not set",
    ),
    Case("control check site-time.yaml", 2, f"site-time.yaml{BAD_SITE['site-time.yaml']}"),
    Case("control check none.yaml", 2, "none.yaml: No such file or directory"),
    Case("control replay --plan plan.yaml --steps steps.jsonl", 2, "steps.jsonl:1: not JSON: …"),
    Case("control replay --plan plan.yaml --steps none.jsonl", 2, "none.jsonl: No such file or directory"),
    Case(
        "control replay --plan plan.yaml --steps steps.jsonl --step 3x", 2, "--step: '3x' is not a duration; write it …"
    ),
]
HTTP_TAKEN = "port {taken} on 127.0.0.1 (HTTP): Address already in use; set FLUX_HTTP_PORT to another"
OPEN = (
    "0.0.0.0 can be reached by others, and keys would go to it in the clear: give --tls-cert and --tls-key, or"
    " --behind-proxy where a proxy in front does TLS, or stay on 127.0.0.1 (--host, FLUX_HTTP_HOST)"
)
PORTS = [
    Case("up", 2, HTTP_TAKEN, {"FLUX_HTTP_PORT": "{taken}"}),
    Case("demo", 2, HTTP_TAKEN, {"FLUX_HTTP_PORT": "{taken}"}),
    Case(
        "demo --modbus-port {modbus}",
        2,
        "port {taken} on 127.0.0.1 (WLCE-GENERATION-METER): Address already in use; choose other ports with "
        "--modbus-port",
    ),
    Case(
        "serve --port {taken}",
        2,
        "port {taken} on 127.0.0.1 (HTTP): Address already in use; choose another with --port or FLUX_HTTP_PORT",
    ),
    Case("serve --host 0.0.0.0", 2, OPEN),
    Case("up --host 0.0.0.0", 2, OPEN),
    Case("serve --tls-cert plan.yaml", 2, "--tls-cert and --tls-key (FLUX_TLS_CERT, FLUX_TLS_KEY) go together"),
    Case(
        "serve --tls-cert plan.yaml --tls-key plan.yaml",
        2,
        "plan.yaml and plan.yaml: no certificate with its key (…",
    ),
    Case("serve", 2, "FLUX_RATE_EDGE: 'much': …", {"FLUX_RATE_EDGE": "much"}),
    Case("serve", 2, "FLUX_JWKS_URL must begin with https:// …", {"FLUX_JWKS_URL": "http://id.example/keys"}),
    Case("up", 2, OPEN, {"FLUX_HTTP_HOST": "0.0.0.0"}),
    Case("serve --port 99999", 2, "Invalid value for '--port': …"),
    Case(
        "sim --port {modbus} --state sim.json",
        2,
        "127.0.0.1:{taken} (WLCE-GENERATION-METER): address already in use; stop what uses it, or choose another port",
    ),
]
SIM = [
    Case("sim --port 65533", 2, "--port 65533: five ports from there on are needed"),
    Case("sim --config none.yaml", 2, "none.yaml: No such file or directory"),
    Case("sim --config site.yaml", 2, "site.yaml:1: devices: is missing"),
    Case("sim --port 0 --load load.csv", 2, "load.csv:2: could not convert string to float: 'abc'"),
    Case("sim --port 0 --fault NOBODY:drop", 3, "no simulated device 'NOBODY'; there are …"),
    Case("sim --port 0 --state a-file", 2, "state file a-file cannot be read …"),
    Case("sim --port 0 --host 192.0.2.1", 2, "192.0.2.1:0 (WLCE-BESS-01): cannot assign requested address; choose …"),
]
DEVICES = [
    Case("devices add X --type turbine --site S", 2, "--type 'turbine': one of bess, meter"),
    Case("devices add bad/name --type bess --site S", 2, "device name = 'bad/name': …"),
    Case("devices add X --type bess --site S --port 99999", 2, "X: metadata port = 99999: …"),
    Case("devices add X --type bess --site S --set capacity_kwh=-1", 2, "X: metadata capacity_kwh = -1: …"),
    Case("devices add X --type meter --site S --set meter_type=gird", 2, "X: metadata meter_type = 'gird': …"),
    Case(
        "devices add X --type meter --site S --template tesla_powerpack",
        2,
        "X: template 'tesla_powerpack' is of a bess, the device is a meter",
    ),
    Case("devices list --state sleepy", 2, "--state 'sleepy': one of registered, …"),
    Case("devices list", 6, "there is no database in …"),
    Case("readings X --since yesterday", 2, "--since 'yesterday': write it like 90s, 2h, 7d or 2026-01-15T12:00Z"),
    Case("readings X --last 0", 2, "Invalid value for '--last': …"),
    Case("rollups X --level 2m", 2, "level '2m': one of 5m, 30m, 1h"),
    Case("nope", 2, "No such command 'nope'; see `flux --help`"),
    Case("db migrate --nope", 2, "No such option: --nope; see `flux db migrate --help`"),
    Case("devices add", 2, "Missing argument 'name'; see `flux devices add --help`"),
]
_DEAD_COMMANDS = (
    *("db migrate", "db status", "db psql -c SELECT", "db backup new.dump", "devices list", "devices show X"),
    *("devices add X --type bess --site S", "readings X", "rollups X", "worker --once", "serve"),
    *("up --site site.yaml", "demo --modbus-port {five}"),
)
DATABASE = [dead(command) for command in _DEAD_COMMANDS]
DATABASE += [
    dead(
        "edge --site plan.yaml",
        f"{DEAD_LINE}; nothing is known yet of the devices of site WLCE, so it can't begin",
    ),
    dsn_case(f"{SECRET} is no DSN", 2, NOT_A_DSN),
    dsn_case(f"{SECRET} is no DSN", 2, NOT_A_DSN, "db psql"),
    dsn_case(f"{SECRET} is no DSN", 2, NOT_A_DSN, "serve"),
    dsn_case(f"mysql://flux:{SECRET}@localhost/flux", 2, NOT_A_DSN),
    dsn_case(f"postgresql://flux:{SECRET}@127.0.0.1:99999/flux", 2, "FLUX_DATABASE_URL (flux@127.0.0.1:99999/flux): …"),
    dsn_case(f"postgresql://flux:{SECRET}@127.0.0.1:1/flux?connect_timeout=x", 2, "FLUX_DATABASE_URL (flux@127.0…"),
    dsn_case(DEAD, 2, "not-a.dump: is not a file that `flux db backup` wrote", "db restore not-a.dump"),
    dsn_case(DEAD, 2, "none.dump: there is no such file", "db restore none.dump"),
    dsn_case(DEAD, 2, "folder is a folder: name a file in it", "db backup folder --force"),
]
_NO_HOME = "FLUX_HOME=/proc/nowhere cannot be used: No such file or directory…"
SETTINGS = [
    Case(
        "devices list",
        2,
        "FLUX_HTTP_PORT='abc': must be a whole number from 0 to 65535",
        {"FLUX_HTTP_PORT": "abc"},
    ),
    Case("up", 2, "FLUX_HTTP_PORT='70000': must be a whole number from 0 to 65535", {"FLUX_HTTP_PORT": "70000"}),
    Case("db status", 2, "FLUX_LOG_JSON='maybe': must be true or false", {"FLUX_LOG_JSON": "maybe"}),
    *(
        Case(command, 2, "FLUX_LOG_LEVEL='LOUD': one of DEBUG, INFO, WARNING, ERROR", {"FLUX_LOG_LEVEL": "LOUD"})
        for command in ("demo", "doctor")
    ),
    *(
        Case(command, 2, "FLUX_HOME=a-file: is not a folder; name another, or move it away", {"FLUX_HOME": "a-file"})
        for command in ("up", "db migrate", "edge --site site.yaml")
    ),
    *(Case(command, 2, _NO_HOME, {"FLUX_HOME": "/proc/nowhere"}) for command in ("up", "db migrate")),
]
CASES = [*TEMPLATES, *SITES, *PORTS, *SIM, *DEVICES, *DATABASE, *SETTINGS]


@dataclass(frozen=True)
class Ran:
    """A command that has ended, and what it left in its folder that was not there before (or took from there)."""

    code: int
    out: str
    err: str
    changed: list[str]

    def problem(self, case: Case) -> str | None:
        """What is wrong with it; None when it ended as it should."""
        told = f"code {self.code}, stderr {self.err!r}, changed {self.changed}"
        wanted = f"error: {case.says}"
        right = self.err.startswith(wanted[:-1]) if wanted.endswith("…") else self.err == f"{wanted}\n"
        one_line = self.err.count("\n") == wanted.count("\n") + 1
        hidden = SECRET not in self.out + self.err
        if self.code == case.code and right and one_line and hidden and not self.changed:
            return None
        return f"flux {case}: {told}\n    expected code {case.code}, {wanted!r}"


def run(command: str, folder: Path, env: Mapping[str, str]) -> Ran:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = tree(folder)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLUX_", "PG"))}
    ended = subprocess.run(
        [sys.executable, "-m", "flux", *shlex.split(command)],
        cwd=folder,
        env={**clean, "FLUX_HOME": "home", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ran(ended.returncode, ended.stdout, ended.stderr, sorted(tree(folder) ^ before))


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, str]]:
    """A port that is taken, the first of five of which that is the third, one that is free, five that are."""
    first = free_ports(10)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", first + 2))
        busy.listen()
        yield {"taken": str(first + 2), "modbus": str(first), "free": str(first + 4), "five": str(first + 5)}


def filled(case: Case, places: Mapping[str, str]) -> Case:
    def fill(text: str) -> str:
        for name, value in places.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    env = {"FLUX_HTTP_PORT": "{free}", **case.env}
    return Case(fill(case.command), case.code, fill(case.says), {k: fill(v) for k, v in env.items()})


@pytest.mark.parametrize("number", range(len(CASES)), ids=map(str, CASES))
def test_one_clear_line_and_nothing_begun(number: int, tmp_path: Path, places: dict[str, str]) -> None:
    case = filled(CASES[number], places)
    problem = run(case.command, tmp_path, case.env).problem(case)
    assert problem is None, problem


def test_the_doctor_says_what_to_do(tmp_path: Path, places: dict[str, str]) -> None:
    env = {"FLUX_DATABASE_URL": DEAD, "FLUX_HTTP_PORT": places["taken"]}
    ended = run("doctor --json", tmp_path, env)
    findings = {row["check"]: row for row in map(json.loads, ended.out.splitlines())}
    problems = {check: row["advice"] for check, row in findings.items() if row["grade"] == "problem"}
    assert (ended.code, ended.err, ended.changed) == (6, "", [])
    assert problems == {
        "http": "set FLUX_HTTP_PORT to another",
        "database": "mend FLUX_DATABASE_URL, or start that server",
    }
    assert findings["database"]["message"] == DEAD_LINE
    assert SECRET not in ended.out


def failed(cases: list[Case], folder: Path, env: Mapping[str, str]) -> list[str]:
    """What is wrong with these cases, run two at a time."""
    folders = [folder / str(number) for number in range(len(cases))]
    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(lambda case, where: run(case.command, where, {**env, **case.env}), cases, folders)
        return [problem for case, one in zip(cases, ended, strict=True) if (problem := one.problem(case))]


UNKNOWN_DEVICES = """plan.yaml:3: controller.site_meter: 'WLCE-GRID-METRE' is no device of site WLCE; did you mean \
'WLCE-GRID-METER'?
plan.yaml:4: controller.bess[0]: 'WLCE-BESS-99' is no device of site WLCE; did you mean 'WLCE-BESS-01'?"""


def test_on_a_database_that_answers(dsn: str, tmp_path: Path, places: dict[str, str]) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        add = "INSERT INTO flux.mg_device_registry (name, type, site) VALUES (%s, %s, 'WLCE')"
        conn.execute(add, ("WLCE-GRID-METER", "meter"))
        conn.execute(add, ("WLCE-BESS-01", "bess"))
        before = conn.execute("SELECT * FROM flux.mg_device_registry ORDER BY name").fetchall()
        cases = [
            Case(
                "devices add WLCE-BESS-01 --type bess --site WLCE",
                4,
                "WLCE-BESS-01: a device of this name is registered already",
            ),
            Case("devices show WLCE-BES-01", 3, "no device 'WLCE-BES-01'; did you mean WLCE-BESS-01?"),
            Case("readings NOBODY", 3, "no device 'NOBODY'; `flux devices list` shows those that exist"),
            Case("readings rejected --accept --id 99", 3, "no pending rejected reading has the id 99"),
            Case("db backup a-file", 4, "a-file exists: give another name, or --force to replace it"),
            Case("db backup none/x.dump", 2, "none/x.dump: the folder none does not exist"),
            Case("edge --site plan.yaml", 2, UNKNOWN_DEVICES),
        ]
        assert failed(cases, tmp_path, {"FLUX_DATABASE_URL": dsn, "FLUX_HTTP_PORT": places["free"]}) == []
        assert conn.execute("SELECT * FROM flux.mg_device_registry ORDER BY name").fetchall() == before


def test_up_ends_with_what_the_edge_says_of_its_site_file(dsn: str, tmp_path: Path, places: dict[str, str]) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        add = "INSERT INTO flux.mg_device_registry (name, type, site) VALUES (%s, %s, 'WLCE')"
        conn.execute(add, ("WLCE-GRID-METER", "meter"))
        conn.execute(add, ("WLCE-BESS-01", "bess"))
    ended = run("up --site plan.yaml", tmp_path, {"FLUX_DATABASE_URL": dsn, "FLUX_HTTP_PORT": places["free"]})
    assert (ended.code, ended.err) == (2, f"error: {UNKNOWN_DEVICES}\n")
    logs = {f"home/logs/{name}.log" for name in ("edge", "serve", "worker")}
    kept = {
        "home/api",
        "home/api/jwt-secret",
        "home/api/anon.key",
        "home/api/service.key",
        f"home/api/gateway-{conninfo_to_dict(dsn)['dbname']}",
    }
    assert set(ended.changed) == {"home", "home/logs", *logs, *kept}, "no outbox, no database, no lock"


def test_a_wrong_password(dsn: str, tmp_path: Path, places: dict[str, str]) -> None:
    wrong = make_conninfo(dsn, password=SECRET)
    says = "database …"
    commands = ("db migrate", "db psql", "db backup new.dump", "devices list", "serve", "up")
    cases = [Case(command, 6, says) for command in commands]
    assert failed(cases, tmp_path, {"FLUX_DATABASE_URL": wrong, "FLUX_HTTP_PORT": places["free"]}) == []
    told = run("db status", tmp_path / "told", {"FLUX_DATABASE_URL": wrong}).err
    assert "lets nobody in: " in told
    assert told.endswith('password authentication failed for user "flux"; check user and password\n')


def test_a_database_without_the_schema(empty_dsn: str, tmp_path: Path, places: dict[str, str]) -> None:
    missing = "the schema is not this program's, run `flux db migrate` (…"
    cases = [
        Case("devices list", 5, missing),
        Case("worker --once", 5, missing),
        Case("serve", 5, "the database has no schema flux: run `flux db migrate`"),
        Case("db backup new.dump", 5, "there is nothing to back up: the database has no schema flux"),
    ]
    assert failed(cases, tmp_path, {"FLUX_DATABASE_URL": empty_dsn, "FLUX_HTTP_PORT": places["free"]}) == []


@contextmanager
def tiny_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A file system of so many KiB; skips where we may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_no_space_for_a_database(tmp_path: Path, places: dict[str, str]) -> None:
    with tiny_disk(tmp_path / "disk", 1024) as disk:
        home = disk / "home"
        says = f"no space for a database in FLUX_HOME={home}: 1 MiB are free, 100 MiB are needed; make room, or …"
        cases = [Case(command, 6, says) for command in ("db migrate", "up")]
        env = {"FLUX_HOME": str(home), "FLUX_HTTP_PORT": places["free"]}
        assert failed(cases, tmp_path, env) == []
        assert list(disk.iterdir()) == []
        doctor = run("doctor", tmp_path / "doctor", env)
        assert doctor.code == 6
        assert "→ make room" in doctor.out


def test_no_space_for_the_outbox(dsn: str, tmp_path: Path, places: dict[str, str]) -> None:
    with tiny_disk(tmp_path / "disk", 16) as disk:
        home = disk / "home"
        env = {"FLUX_HOME": str(home), "FLUX_DATABASE_URL": dsn, "FLUX_HTTP_PORT": places["free"]}
        for attempt in ("first", "second"):  # the second must not take what the first left for an outbox in use
            ended = run("edge --site site.yaml", tmp_path / attempt, env)
            assert (ended.code, ended.changed) == (6, [])
            lines = [line for line in ended.err.splitlines() if not line.startswith("20")]  # log lines begin so
            assert len(lines) == 1
            assert lines[0].startswith(f"error: {home}/edge/WLCE/outbox.sqlite: ")
            assert lines[0].endswith("; free some space, or name another folder with state_dir in site.yaml")
            assert not list(home.rglob("outbox.sqlite*"))


def test_no_space_for_a_backup_leaves_nothing(dsn: str, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 16) as disk:
        ended = run(f"db backup {disk}/new.dump", tmp_path / "work", {"FLUX_DATABASE_URL": dsn})
        assert (ended.code, ended.err.count("\n")) == (6, 1)
        assert "No space left on device" in ended.err
        assert list(disk.iterdir()) == []
