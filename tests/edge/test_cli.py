"""``flux edge`` as a process: what it prints, how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def flux_edge(*arguments: str, home: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flux", "edge", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env={**os.environ, "FLUX_HOME": str(home), "FLUX_LOG_LEVEL": "ERROR", **environment},
    )


def test_the_schema_is_json(tmp_path: Path) -> None:
    result = flux_edge("--print-schema", home=tmp_path)
    assert result.returncode == 0
    assert json.loads(result.stdout)["title"] == "Flux site file"


def test_without_a_site_file_it_says_how(tmp_path: Path) -> None:
    result = flux_edge(home=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "error: --site is missing: flux edge --site site.yaml\n"


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = flux_edge("--site", str(tmp_path / "site.yaml"), home=tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path}/site.yaml: No such file or directory\n"


def test_a_variable_that_is_not_set_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("site: WLCE\nplatform:\n  database_url_env: WLCE_DATABASE\n")
    result = flux_edge("--site", str(path), home=tmp_path)
    assert result.returncode == 2
    expected = "platform.database_url_env: the environment variable WLCE_DATABASE is not set"
    assert result.stderr == f"error: {path}:3: {expected}\n"


def test_a_url_that_is_none_is_refused_without_repeating_it(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("site: WLCE\n")
    result = flux_edge("--site", str(path), home=tmp_path, FLUX_DATABASE_URL="my secret=")
    assert result.returncode == 2
    assert "secret" not in result.stderr
    assert result.stderr.count("\n") == 1
