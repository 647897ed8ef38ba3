"""The official JavaScript clients, where node and they are there (`make node-packages`)."""

import os
import shutil
from pathlib import Path

HERE = Path(__file__).parent
_PACKAGES = ("@supabase/supabase-js", "@supabase/postgrest-js", "ws")


def missing() -> str | None:
    """Why they cannot be run here; None: they can. ``FLUX_TEST_NODE=required`` makes every reason an error."""
    reason = None
    if shutil.which("node") is None:
        reason = "node is not installed"
    elif not all((HERE / "node_modules" / package).is_dir() for package in _PACKAGES):
        reason = "run `make node-packages` first"
    if reason is not None and os.environ.get("FLUX_TEST_NODE") == "required":
        raise RuntimeError(f"the JavaScript clients must be tested here, but {reason}")
    return reason
