"""The state of a simulated site on disk: whole or not at all, whatever moment the process ends."""

import fcntl
import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from flux.devices.simulator.profiles import from_us
from flux.errors import ConflictError, InputError


class StateFile:
    """A JSON file that is replaced in one go, held by one process at a time.

    A killed process never leaves half a file: the new state goes to a file beside it and takes the name then. It is
    not forced to the disk (fsync), so that it may be written each second: it outlives a crash of the process, and of
    the machine in most cases.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def hold(self) -> None:
        """Claim the file; :class:`ConflictError` when another simulator has it, :class:`InputError` if it can't be."""
        while self._lock is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise InputError(f"state file {self.path}: {error.strerror}; choose another with --state") from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                raise ConflictError(
                    f"state file {self.path} is in use by another simulator; stop it, or choose another with --state"
                ) from None
            if self._is_current(lock):
                self._lock = lock
            else:  # its last holder removed it before we had it
                os.close(lock)

    def release(self) -> None:
        if self._lock is not None:
            self._lock_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(self.path.name + ".lock")

    def _is_current(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.fstat(lock), self._lock_path.stat())
        except FileNotFoundError:
            return False

    def load(self) -> dict[str, Any] | None:
        """The last state; ``None`` when there is none yet."""
        try:
            state = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(
                f"state file {self.path} cannot be read ({error}); move it away to start with new devices"
            ) from None
        if not isinstance(state, dict):
            raise InputError(f"state file {self.path} holds no state; move it away to start with new devices")
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state; raises :class:`OSError` when the disk won't take it, and the old one stays."""
        fresh = self.path.with_name(self.path.name + ".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(state, file, separators=(",", ":"))
        fresh.replace(self.path)


def saved_time(file: StateFile) -> datetime | None:
    """The simulated time at which the state was kept; ``None`` when there is none."""
    state = file.load()
    if state is None:
        return None
    time_us = state.get("time_us")
    if not isinstance(time_us, int):
        raise InputError(f"state file {file.path} has no time; move it away to start with new devices")
    return from_us(time_us)
