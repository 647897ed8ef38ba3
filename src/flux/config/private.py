"""Files that hold secrets: for their owner alone."""

import os
import secrets
import stat
from pathlib import Path

from flux.errors import InputError


def require_private(file: Path) -> None:
    """Raise InputError for a file that others than its owner may read. FileNotFoundError: there is none."""
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        raise InputError(f"{file}: others may read it (mode {mode:04o}) and it holds secrets; chmod 600 it")


def read_private(file: Path) -> str:
    """What a file of secrets holds. InputError where others may read it, or it can't be read at all."""
    require_private(file)
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None


def create_private(file: Path, text: str) -> bool:
    """Write a file of mode 0600 unless there is one; whole or not at all. Its folder is made with mode 0700.

    False: there was one already, perhaps made by another process a moment ago. InputError: it can't be written.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            os.link(draft, file)  # unlike a rename, this never replaces what is there
        finally:
            draft.unlink()
    except FileExistsError:
        return False
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from None
    return True
