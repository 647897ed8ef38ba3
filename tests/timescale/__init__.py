"""TimescaleDB for tests: compiled to WebAssembly, run by node, where both are there (`make node-packages`)."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

HERE = Path(__file__).parent


def missing() -> str | None:
    """Why it cannot be started here; None: it can."""
    if shutil.which("node") is None:
        return "node is not installed"
    if not (HERE / "node_modules" / "@unni-craftsman" / "pglite").is_dir():
        return "run `make node-packages` first"
    return None


@contextmanager
def timescale_server() -> Iterator[str]:
    """The DSN of an empty database with the extension. One connection at a time; the next one waits."""
    command = ["node", "server.mjs"]
    with subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = json.loads(server.stdout.readline())["port"]
            dsn = f"host=127.0.0.1 port={port} user=postgres password=postgres dbname=postgres sslmode=disable"
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION timescaledb")
            yield dsn
        finally:
            server.stdin.close()  # it ends by itself then
            server.wait(timeout=20)
