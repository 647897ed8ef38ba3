"""`flux control push`, `withdraw`, and `check --site`: plans against the devices of a real registry."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import connect
from tests.control.kit import SAMPLE
from typer.testing import CliRunner, Result

from flux.cli.app import app
from flux.errors import InputError, NotFoundError

Run = Callable[..., Result]
DEVICES = (("WLCE-GRID-METER", "meter"), ("WLCE-BESS-METER", "meter"), ("WLCE-BESS-01", "bess"))


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on the test's database, in this process; errors of ours come back as they are raised."""
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)
    with connect(dsn, autocommit=True) as conn:
        for name, kind in DEVICES:
            key, template = ("template", "tesla_powerpack") if kind == "bess" else ("register_map", "acuvim2_standard")
            metadata = json.dumps({"host": "127.0.0.1", key: template, "ct_ratio": 160, "vt_ratio": 4})
            conn.execute(
                "INSERT INTO flux.mg_device_registry (name, type, site, metadata) VALUES (%s, %s, 'WLCE', %s)",
                (name, kind, metadata),
            )

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["control", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def plan(folder: Path, text: str = SAMPLE) -> str:
    path = folder / "plan.yaml"
    path.write_text(text)
    return str(path)


def test_a_plan_is_pushed_once_and_withdrawn(run: Run, tmp_path: Path, dsn: str) -> None:
    path = plan(tmp_path)
    found = run("check", path).output.split("(")[1].split(")")[0]
    assert run("push", path, "--site", "WLCE").output == f"WLCE: plan {found} is in force\n"
    assert run("push", path, "--site", "WLCE").output == f"WLCE: plan {found} was in force already\n"
    other = plan(tmp_path, SAMPLE.replace("capacity_kwh: 500", "capacity_kwh: 600"))
    assert run("push", other, "--site", "WLCE").output.endswith("is in force\n")
    with connect(dsn) as conn:
        rows = conn.execute("SELECT withdrawn_at IS NULL FROM flux.site_plans ORDER BY id").fetchall()
    assert rows == [(False,), (True,)]
    assert run("withdraw", "--site", "WLCE").output == "WLCE: its site file counts again\n"
    assert run("withdraw", "--site", "WLCE").output == "WLCE: no plan was pushed\n"


@pytest.mark.parametrize("command", ["push", "check"])
def test_a_device_that_is_not_there_is_refused_with_file_line_field_and_value(
    run: Run, tmp_path: Path, command: str
) -> None:
    wrong = SAMPLE.replace("bess: [WLCE-BESS-01]", "bess: [WLCE-BESS-1]").replace("WLCE-GRID-METER", "WLCE-BESS-01")
    path = plan(tmp_path, wrong)
    with pytest.raises(InputError) as caught:
        run(command, path, "--site", "WLCE")
    assert str(caught.value).splitlines() == [
        f"{path}:2: controller.site_meter: 'WLCE-BESS-01' is a bess, a meter is needed here",
        f"{path}:3: controller.bess[0]: 'WLCE-BESS-1' is no device of site WLCE; did you mean 'WLCE-BESS-01'?",
    ]


def test_a_plan_that_fits_is_valid_and_a_site_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    assert "the plan is valid" in run("check", plan(tmp_path), "--site", "WLCE").output
    with pytest.raises(InputError, match="'WLCE-GRID-METER' is no device of site WLCF"):
        run("check", plan(tmp_path), "--site", "WLCF")
    with pytest.raises(NotFoundError, match="there is no site 'WLCF'; there is WLCE"):
        run("withdraw", "--site", "WLCF")
