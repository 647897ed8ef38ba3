"""All benchmarks, or those named: ``python -m benchmarks [ingest polling …]``. Each prints what it measured.

``--minutes`` is how long ``jitter`` looks; docs/performance.md gives what 10 minutes showed.

Every figure that docs/performance.md gives comes from here. A ratio is measured in one run, since machines differ and
share their cores; a time alone says little.
"""

import argparse
import importlib
import os
import platform
import sys
import time

from flux.config import load_settings
from flux.config.logs import configure_logging

BENCHMARKS = (
    "ingest",
    "rollups",
    "storage",
    "polling",
    "decide",
    "edge_memory",
    "jitter",
    "hunting",
    "optimum",
    "backtest",
    "queries",
    "transfer",
    "scaling",
    "scan",
    "registry",
    "api",
    "realtime",
    "edges",
)


def main(names: list[str], minutes: float) -> None:
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    configure_logging(load_settings(), quiet=True)
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores")
    for name in names or BENCHMARKS:
        print(f"\n== {name}", flush=True)
        started = time.perf_counter()
        options = {"minutes": minutes} if name == "jitter" else {}
        importlib.import_module(f"benchmarks.{name}").main(**options)
        print(f"   ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--minutes", type=float, default=1.0, help="how long jitter looks")
    arguments = parser.parse_args()
    main(arguments.names, arguments.minutes)
