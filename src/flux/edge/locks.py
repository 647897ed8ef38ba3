"""One edge for a site on a host, one user of a state folder: locks that the kernel releases whatever happens."""

import fcntl
import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from flux.model import ConflictError, InputError

_SHARED_FOLDER = Path("/run/lock")


def site_lock_path(platform: str, site: str) -> Path:
    """The lock of ``site`` of the platform at ``platform``, the same for every user of this host."""
    folder = _SHARED_FOLDER if os.access(_SHARED_FOLDER, os.W_OK) else Path(tempfile.gettempdir())
    digest = hashlib.sha256(f"{platform}\n{site}".encode()).hexdigest()[:16]
    return folder / f"flux-edge-{site}-{digest}.lock"


class HeldLock:
    """``with HeldLock(path, "site WLCE")``: ConflictError when another process holds it."""

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what
        self._file: int | None = None

    def __enter__(self) -> Self:
        while self._file is None:
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(file, 20).decode(errors="replace").strip()
                os.close(file)
                who = f"process {holder}" if holder else "another process"
                raise ConflictError(f"{self._what}: an edge runs here already ({who}); stop it first") from None
            if self._is_current(file):
                self._file = file
                self._write_pid(file)
            else:  # its last holder removed it between our opening and our locking: that lock is worth nothing
                os.close(file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):  # of another user, in a folder where only the owner may remove
                self._path.unlink()
            os.close(self._file)
            self._file = None

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except PermissionError:
            return self._open_of_another_user()
        except OSError as error:
            raise InputError(f"{self._path}: cannot be made ({error.strerror})") from None

    def _open_of_another_user(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"{self._path}: cannot be opened ({error.strerror})") from None

    def _write_pid(self, file: int) -> None:
        """Best effort: the lock counts, the number is for whoever meets it."""
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            return
