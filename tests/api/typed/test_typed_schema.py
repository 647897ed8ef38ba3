"""schemathesis against the description of `/v1`: no 5xx, no status and no body that is not described."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.api.fleet import fill_fleet
from tests.api.live import live_server_on

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_description_says_what_is_answered(dsn: str, tmp_path: Path) -> None:
    fill_fleet(dsn)
    with live_server_on(dsn, rate_service="1000000/1000000") as live:
        address = [f"{live.url}/openapi.json", "--url", live.url, "-H", f"apikey: {live.key('service')}"]
        what = ["--include-path-regex", "^/v1/(?!webhooks)", "--checks", CHECKS, "--phases", "examples,fuzzing"]
        how = ["--max-examples", "25", "--seed", "1", "--continue-on-failure", "--no-color"]
        found = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", *address, *what, *how],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert found.returncode == 0, found.stdout[-6000:]
    assert "Test cases" in found.stdout
