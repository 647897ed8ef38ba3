"""The exceptions that Flux raises on purpose, split by what the caller does next.

::

    FluxError                 anything below; has a line for a person and an exit code for scripts
    ├── InputError            what was given is wrong (file, argument, value): mend it; exit 2
    ├── NotFoundError         the thing named does not exist; exit 3
    ├── ConflictError         it exists already, or somebody changed it meanwhile; exit 4
    ├── RefusedError          understood, and not allowed (lifecycle, safety, grants); exit 5
    └── UnavailableError      a database, device or service does not answer: try again later; exit 6
        └── DeviceError       a device did not answer, or answered with a fault

Anything else that reaches the top is a bug, ends with a traceback and exit code 1.
"""


class FluxError(Exception):
    """Base of all errors that a person can act on; ``str()`` of it is one line that says what to do."""

    exit_code = 1


class InputError(FluxError):
    """What was given is wrong; nothing was changed."""

    exit_code = 2


class NotFoundError(FluxError):
    """The thing named does not exist."""

    exit_code = 3


class ConflictError(FluxError):
    """It exists already, or was changed by somebody else meanwhile."""

    exit_code = 4


class RefusedError(FluxError):
    """Understood, and not allowed."""

    exit_code = 5


class UnavailableError(FluxError):
    """Something needed does not answer; trying again later may help."""

    exit_code = 6


class DeviceError(UnavailableError):
    """A device did not answer, or answered with a fault."""
