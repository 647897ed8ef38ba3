"""Rows that were not stored, as a CSV file that can be mended and imported again."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from flux.errors import ConflictError
from flux.store.transfer.columns import REJECT_COLUMNS
from flux.store.transfer.files import atomic_file
from flux.store.transfer.importing import RejectedRow


@contextmanager
def rejects_file(
    target: Path, header: Sequence[str], *, force: bool = False
) -> Iterator[Callable[[RejectedRow], None]]:
    """Takes rejected rows; with the first one the file begins, and it is under its name when the block has ended well.

    ConflictError if there is such a file (unless ``force``), before anything is imported.
    """
    if target.exists() and not force:
        raise ConflictError(f"{target} exists: give another name, or --force to replace it")
    # of a file of rejected rows that is imported again, the old reasons are left out
    kept = [place for place, name in enumerate(header) if name not in REJECT_COLUMNS]
    with ExitStack() as stack:
        writer: Any = None

        def write(row: RejectedRow) -> None:
            nonlocal writer
            if writer is None:
                file = stack.enter_context(atomic_file(target, force=force))
                text = stack.enter_context(_Unclosed(file, encoding="utf-8", newline=""))
                writer = csv.writer(text, lineterminator="\n")
                writer.writerow([*REJECT_COLUMNS, *(header[place] for place in kept)])
            fields = [_text(row.fields[place]) for place in kept if place < len(row.fields)]
            surplus = [_text(value) for value in row.fields[len(header) :]]
            writer.writerow([row.line, row.reason, row.detail, *fields, *surplus])

        yield write


class _Unclosed(io.TextIOWrapper):
    """Text on a file that is somebody else's to close."""

    def __exit__(self, *_: object) -> None:
        self.flush()
        self.detach()


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime) else str(value)
