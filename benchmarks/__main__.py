"""All benchmarks, or those named: ``python -m benchmarks [ingest polling …]``. Each prints what it measured.

Every figure that docs/performance.md gives comes from here. A ratio is measured in one run, since machines differ and
share their cores; a time alone says little.
"""

import importlib
import os
import platform
import sys
import time

from flux.config import load_settings
from flux.config.logs import configure_logging

BENCHMARKS = ("ingest", "rollups", "polling", "decide", "edge_memory")


def main(names: list[str]) -> None:
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    configure_logging(load_settings(), quiet=True)
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores")
    for name in names or BENCHMARKS:
        print(f"\n== {name}", flush=True)
        started = time.perf_counter()
        importlib.import_module(f"benchmarks.{name}").main()
        print(f"   ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
