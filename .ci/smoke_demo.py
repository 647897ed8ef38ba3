"""`make demo` as a new user meets it: start, paste the printed lines, Ctrl-C, and the same again.

Ends with an error unless every printed line works, the stop is clean, and the second run goes on where the first was:
nothing lost, nothing twice, nothing rejected.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 240
DEVICES = 5
READY = "Ctrl-C stops everything"


def main() -> None:
    first = run_demo()
    second = run_demo()
    if second["readings"] < first["readings"] + DEVICES:
        sys.exit(f"the second run does not go on: {first['readings']} readings, then {second['readings']}")
    print(f"demo: ok, {first['readings']} readings after the first run, {second['readings']} after the second")


def run_demo() -> dict[str, int]:
    """One run; returns what the database holds near its end."""
    with subprocess.Popen(
        ["make", "demo"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as demo:
        try:
            lines = read_until_ready(demo)
            wait_for_live_readings()
            for line in lines:
                if line.strip().startswith("$ "):
                    paste(line.strip()[2:])
            maintenance_by_sql()
            figures = count_readings()
            os.killpg(demo.pid, signal.SIGINT)
            rest, _ = demo.communicate(timeout=60)
        finally:
            if demo.poll() is None:
                os.killpg(demo.pid, signal.SIGKILL)
    print(rest)
    if "stopped" not in rest or "Traceback" in rest:
        sys.exit("the demo did not stop cleanly")
    return figures


def read_until_ready(demo: subprocess.Popen[str]) -> list[str]:
    deadline = time.monotonic() + START_TIMEOUT_S
    lines: list[str] = []
    assert demo.stdout is not None
    for line in demo.stdout:
        print(line, end="")
        lines.append(line)
        if READY in line:
            return lines
        if time.monotonic() > deadline:
            break
    sys.exit("the demo did not come up")


def paste(command: str) -> None:
    """Run a printed line as a person would, from the checkout; it must succeed and say something."""
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as pasted:
        try:
            printed, _ = pasted.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(pasted.pid, signal.SIGKILL)  # what it started too, or its end of the pipe would be waited for
            sys.exit(f"this printed line does not end: {command}")
    print(f"$ {command}\n{printed[:600]}", flush=True)
    if pasted.returncode or not printed.strip():
        sys.exit(f"this printed line does not work: {command}")


def query(sql: str) -> str:
    done = subprocess.run(
        [".venv/bin/flux", "db", "psql", "--", "-XAtc", sql],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def maintenance_by_sql() -> None:
    """Within 5 s the battery is at 0 kW, not polled and not controlled; afterwards it is tested and active again."""
    began = time.monotonic()
    query(
        """UPDATE flux.mg_device_registry SET active = false, metadata = jsonb_set(metadata, '{maintenance}',
           '{"started_at": "2024-01-01T10:00:00Z", "reason": "Firmware upgrade",
             "expected_duration": "2 hours"}'::jsonb)
           WHERE name = 'WLCE-BESS-01'"""
    )
    while (seen := battery_at_rest()) is not None:
        if time.monotonic() > began + 5:
            sys.exit(f"5 s after maintenance began: {seen}")
        time.sleep(0.1)
    print(f"maintenance by SQL: at rest {time.monotonic() - began:.1f} s later")
    query("UPDATE flux.mg_device_registry SET active = true WHERE name = 'WLCE-BESS-01'")
    for _ in range(100):
        if query("SELECT state FROM flux.mg_device_registry WHERE name = 'WLCE-BESS-01'") == "active":
            return
        time.sleep(0.2)
    sys.exit("the battery did not become active again after maintenance")


def battery_at_rest() -> str | None:
    """None: it is; else what it is, in words."""
    status = json.loads((ROOT / ".flux" / "edge" / "WLCE" / "status.json").read_text())
    (device,) = [one for one in status["devices"] if one["name"] == "WLCE-BESS-01"]
    controller = status["controller"]
    if device["polled"] or controller["target_kw"] or controller["acknowledged_kw"] != 0:
        return f"polled {device['polled']}, target {controller['target_kw']}, {controller['acknowledged_kw']} kW"
    return None


def wait_for_live_readings() -> None:
    """One of each device that the edge polled and uploaded, beyond what was there when the demo came up."""
    before = count_readings()["readings"]
    for _ in range(150):
        if count_readings()["readings"] >= before + DEVICES:
            return
        time.sleep(1)
    sys.exit("no live readings arrived in 150 s")


def count_readings() -> dict[str, int]:
    counts: dict[str, int] = json.loads(
        query(
            "SELECT json_build_object('readings', (SELECT count(*) FROM flux.mg_meter_readings)"
            " + (SELECT count(*) FROM flux.mg_bess_readings),"
            " 'rejected', (SELECT count(*) FROM flux.rejected_readings))"
        )
    )
    if counts["rejected"]:
        sys.exit(f"{counts['rejected']} readings were rejected")
    return counts


if __name__ == "__main__":
    main()
