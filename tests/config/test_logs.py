"""Logging that never stops what it tells of: a full disk under the log file must not end control of a battery."""

import errno
import io
import os
import sys

import pytest
import structlog

from flux.config.logs import PatientStream, configure_logging
from flux.config.settings import Settings


class Disk(io.StringIO):
    """A text file on a disk that can be full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


def test_a_log_line_that_cannot_be_written_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    disk.full = True
    monkeypatch.setattr(sys, "stderr", disk)
    configure_logging(Settings(log_level="INFO"))
    try:
        structlog.get_logger("test").info("the battery is told 40 kW")
        structlog.get_logger("test").error("alarm")
        disk.full = False
        structlog.get_logger("test").info("there is space again")
    finally:
        structlog.reset_defaults()
    assert "2 lines of this log could not be written" in disk.getvalue()
    assert "there is space again" in disk.getvalue()


def test_lost_lines_are_counted_and_told_once_there_is_space() -> None:
    disk = Disk()
    stream = PatientStream(disk)
    print("before", file=stream, flush=True)
    disk.full = True
    for number in range(3):
        print("lost", number, file=stream, flush=True)
    disk.full = False
    print("after", file=stream, flush=True)
    print("later", file=stream, flush=True)
    lines = disk.getvalue().splitlines()
    assert lines[0] == "before"
    assert "3 lines of this log could not be written (No space left on device)" in lines[1]
    assert lines[2:] == ["after", "later"]


def test_a_reader_that_is_gone_raises_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as broken:
        stream = PatientStream(broken)
        print("nobody reads this", file=stream, flush=True)
        assert stream.lost == 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), broken.fileno())
