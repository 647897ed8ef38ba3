"""Two edges of one site on one host: the second is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flux.edge.locks import HeldLock, site_lock_path
from flux.model import ConflictError, InputError

HOLDER = """
import sys
from pathlib import Path
from flux.edge.locks import HeldLock
with HeldLock(Path(sys.argv[1]), "site WLCE"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "site.lock"
    with HeldLock(path, "site WLCE"):
        other = HeldLock(path, "site WLCE")
        with pytest.raises(ConflictError, match=rf"^site WLCE: an edge runs here already \(process {os.getpid()}\)"):
            other.__enter__()
    assert not path.exists()
    with HeldLock(path, "site WLCE"):
        pass


def test_a_file_that_was_removed_meanwhile_is_no_lock(tmp_path: Path) -> None:
    """Opened, then removed by its last holder, then locked: another process may have made a new one by then."""

    class Racing(HeldLock):
        raced = False

        def _open(self) -> int:
            file = super()._open()
            if not self.raced:
                self.raced = True
                self._path.unlink()
            return file

    path = tmp_path / "site.lock"
    with Racing(path, "site WLCE"), pytest.raises(ConflictError):
        HeldLock(path, "site WLCE").__enter__()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "site.lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConflictError, match=f"process {process.pid}"):
            HeldLock(path, "site WLCE").__enter__()
        process.kill()
        process.wait()
        with HeldLock(path, "site WLCE"):
            pass


def test_sites_and_platforms_have_locks_of_their_own() -> None:
    paths = {site_lock_path(platform, site) for platform in ("db1:5432/flux", "db2:5432/flux") for site in ("A", "B")}
    assert len(paths) == 4
    assert site_lock_path("db1:5432/flux", "A") in paths


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        HeldLock(tmp_path / "file" / "lock", "state folder").__enter__()
