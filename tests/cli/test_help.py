"""Every command explains itself, and the command line starts before a person notices."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flux.cli.app import app

# typer itself brings pydantic along
HEAVY = (
    "pydantic_settings",
    "psycopg",
    "rich.table",
    "pymodbus",
    "fastapi",
    "uvicorn",
    "sqlalchemy",
    "ruamel",
    "numpy",
    "highspy",
    "structlog",
)
ROOMS = (
    "model",
    "config",
    "charts",
    "control",
    "devices",
    "market",
    "store",
    "registry",
    "edge",
    "analysis",
    "api",
    "local",
)


def commands() -> Iterator[tuple[str, ...]]:
    """The path of every command and group, from its Typer objects."""

    def below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from below(child, (*path, name))

    yield from below(typer.main.get_command(app), ())


ALL = list(commands())


def test_all_commands_are_found() -> None:
    assert {(), ("up",), ("db", "migrate"), ("devices", "add"), ("control", "replay"), ("rollups",)} <= set(ALL)


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "flux")
def test_help_has_a_sentence(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert (result.exit_code, result.exception) == (0, None)
    assert "Usage:" in result.output
    command = typer.main.get_command(app)
    for name in path:
        command = getattr(command, "commands")[name]  # noqa: B009 - a group; the name of its type is typer's own
    text = (command.help or "").strip()
    first = text.split("\n\n")[0]
    assert first.rstrip().endswith("."), f"{first!r} is no sentence"
    assert len(first.split()) >= 3, first


def flux(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FLUX_")}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env={**clean, **env}, capture_output=True, text=True, timeout=60, check=False)


_LOADED = """
import atexit, sys
atexit.register(lambda: sys.stderr.write(" ".join(sorted(sys.modules))))
sys.argv = ["flux", *sys.argv[1:], *{arguments!r}]
from flux.cli.app import main
main()
"""


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["devices", "--help"]], ids=" ".join)
def test_nothing_heavy_is_imported_before_a_command_runs(arguments: list[str]) -> None:
    """So that it starts in well under 0.3 s; a time would depend on what else this machine does."""
    ended = flux(_LOADED.format(arguments=arguments))
    assert ended.returncode == 0
    assert ended.stdout
    loaded = set(ended.stderr.split())
    assert "typer" in loaded
    assert loaded & set(HEAVY) - ({"rich.table"} if "--help" in arguments else set()) == set()
    assert loaded & {f"flux.{room}" for room in ROOMS} == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_can_be_made(shell: str) -> None:
    ended = flux("from flux.cli.app import main; main()", _FLUX_COMPLETE=f"source_{shell}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "_FLUX_COMPLETE" in ended.stdout


def test_completion_knows_the_commands() -> None:
    words = {"_FLUX_COMPLETE": "complete_bash", "COMP_WORDS": "flux devices ", "COMP_CWORD": "2"}
    ended = flux("from flux.cli.app import main; main()", **words)
    assert {"list", "show", "add"} <= set(ended.stdout.split())
