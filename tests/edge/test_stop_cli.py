"""``flux control stop`` and ``resume`` as processes, without an edge that runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


def flux_control(*arguments: str, home: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flux", "control", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env={**os.environ, "FLUX_HOME": str(home), "FLUX_LOG_LEVEL": "ERROR", "FLUX_DATABASE_URL": NOWHERE},
    )


def test_where_nobody_is_reached_it_is_one_line_and_exit_code_6(tmp_path: Path) -> None:
    result = flux_control("stop", "--site", "WLCE", home=tmp_path)
    assert result.returncode == 6
    assert result.stderr.startswith(f"error: site WLCE was not reached: no edge has its state in {tmp_path}/edge/WLCE")
    assert result.stderr.count("\n") == 1


def test_on_the_edges_host_it_is_kept_until_resume(tmp_path: Path) -> None:
    folder = tmp_path / "edge" / "WLCE"
    folder.mkdir(parents=True)
    result = flux_control("stop", "--site", "WLCE", "--reason", "smoke", "--wait", "200ms", home=tmp_path)
    assert result.returncode == 6
    assert "site WLCE has a stop (on this host;" in result.stderr
    assert "it holds from now on" in result.stderr
    assert json.loads((folder / "stop.json").read_text())["reason"] == "smoke"
    result = flux_control("resume", "--site", "WLCE", home=tmp_path)
    assert result.returncode == 0
    assert "the stop on this host ended" in result.stdout
    assert "a stop of the platform, if there is one, goes on" in result.stdout
    assert not (folder / "stop.json").exists()


def test_the_site_file_names_another_state_folder(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    site_file = tmp_path / "site.yaml"
    site_file.write_text("site: WLCE\nstate_dir: state\n")
    options = ["--site-file", str(site_file), "--wait", "200ms"]
    assert flux_control("stop", "--site", "WLCE", *options, home=tmp_path).returncode == 6
    assert (tmp_path / "state" / "stop.json").exists()
    result = flux_control("stop", "--site", "HMCE", *options, home=tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"error: {site_file} is of site WLCE, not HMCE\n"


def test_what_is_no_code_of_a_site_or_no_time_is_refused(tmp_path: Path) -> None:
    result = flux_control("stop", "--site", "../../etc", home=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "error: --site ../../etc: not a site's code; it is like WLCE\n"
    assert flux_control("stop", "--site", "WLCE", "--wait", "soon", home=tmp_path).returncode == 2
