"""How Flux logs: structlog, as text or one JSON object a line, to standard error."""

import logging
import sys

import structlog

from flux.config.settings import Settings
from flux.errors import InputError


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
