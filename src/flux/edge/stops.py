"""``flux control stop``: the stop file in the edge's state folder, and the platform's word. Whichever is set stops.

The file works when the platform is away; it is there or not, so that a stop outlives a restart, and a file that cannot
be read stops as well.
"""

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from flux.registry.for_edges import StopOrder

STOP_FILE = "stop.json"
OTHER_MASTER_FILE = "other_master.json"


class StopFile:
    """The stop of an edge's host. Blocks for the time of a small file."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / STOP_FILE

    def set(self, order: StopOrder) -> None:
        """Stop; one that is in force stays as it was. OSError when the disk refuses."""
        body = asdict(order) | {"since": order.since.isoformat() if order.since else None}
        if self.read() is None:
            # made empty first: on a full disk a file without a word in it still stops
            self.path.touch()
            self.path.write_text(json.dumps(body) + "\n", encoding="utf-8")

    def clear(self) -> bool:
        """Resume; False when there was no stop. OSError when it cannot be removed."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True

    def read(self) -> StopOrder | None:
        """The stop in force. OSError when the folder cannot be looked into."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (PermissionError, IsADirectoryError, UnicodeDecodeError):
            return StopOrder(f"{STOP_FILE}, which cannot be read", "")
        try:
            body = json.loads(text)
            since = datetime.fromisoformat(body["since"]) if body.get("since") else None
            return StopOrder(str(body["actor"]), str(body["reason"]), since)
        except (ValueError, KeyError, TypeError, AttributeError):
            return StopOrder(f"{STOP_FILE}, which says not by whom", "")


class OtherMasterFile:
    """Which batteries somebody else was found to command: remembered until ``flux control resume`` removes the file."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / OTHER_MASTER_FILE

    def write(self, found: dict[str, str]) -> None:
        """Replace what is remembered; OSError when the disk refuses."""
        draft = self.path.with_name(self.path.name + ".new")
        draft.write_text(json.dumps(found) + "\n", encoding="utf-8")
        draft.replace(self.path)

    def read(self) -> dict[str, str]:
        """By battery, what was found; empty: nothing."""
        try:
            body = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return {str(name): str(found) for name, found in body.items()} if isinstance(body, dict) else {}

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def clear(self) -> bool:
        """Forget it; False when there was nothing."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True
