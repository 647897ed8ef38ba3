"""How Flux logs: structlog, as text or one JSON object a line, to standard error."""

import logging
import sys
from typing import TextIO, cast

import structlog

from flux.config.settings import Settings
from flux.errors import InputError


class PatientStream:
    """A text stream that never raises: a full disk under the log must not stop who controls a battery.

    ``print`` writes a line in pieces and flushes it; ``lost`` counts the lines of which a piece could not be written.
    How many were lost is the first line that can be written again.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._why = ""
        self._broken = False
        self.lost = 0

    def write(self, text: str) -> int:
        if not self._broken:
            try:
                if self.lost:
                    self._stream.write(f"… {self.lost} lines of this log could not be written ({self._why})\n")
                    self._stream.flush()
                    self.lost = 0
                self._stream.write(text)
            except OSError as error:
                self._broken, self._why = True, error.strerror or str(error)
        return len(text)

    def flush(self) -> None:
        """The end of a line."""
        try:
            self._stream.flush()
        except OSError as error:
            self._broken, self._why = True, error.strerror or str(error)
        self.lost += self._broken
        self._broken = False  # the next line is tried again

    def isatty(self) -> bool:
        return self._stream.isatty()


def configure_logging(settings: Settings, *, quiet: bool = False) -> None:
    """Set up structlog and the standard library's logging alike; called once, by the process that starts.

    ``quiet`` leaves out what is only informative, unless FLUX_LOG_LEVEL was set.
    """
    level = logging.getLevelNamesMapping().get(settings.log_level.upper())
    if level is None:
        raise InputError(f"FLUX_LOG_LEVEL={settings.log_level!r}: one of DEBUG, INFO, WARNING, ERROR")
    if quiet and "log_level" not in settings.model_fields_set:
        level = logging.WARNING
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    stream = cast(TextIO, PatientStream(sys.stderr))
    structlog.configure(
        processors=[
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
    )
    logging.basicConfig(level=logging.WARNING, stream=stream, format="%(asctime)s %(levelname)s %(name)s %(message)s")
