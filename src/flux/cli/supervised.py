"""A child of `flux up` ends when its supervisor does, even one that was killed."""

import os
import signal
import sys
import threading


def end_with_supervisor() -> None:
    """Send SIGTERM to this process when its standard input, a pipe from the supervisor, closes."""

    def watch() -> None:
        # os.read, not sys.stdin: a thread inside a buffered read holds a lock that the interpreter needs to end
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor watch", daemon=True).start()
