"""Runs the examples of a page of the docs as printed.

A fenced block marked ``sh``, ``python`` or ``js`` (with nothing behind it) is an example: it is run; any other block
is not. The blocks of one language on a page are one session: a variable of the first is there in the next, as for a
reader who pastes one after another. All blocks of the page run in the order of the page, whatever their language.

``sh`` is bash that stops at the first error; curl fails where the answer is an HTTP error, and is quiet about progress.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests import clients

LANGUAGES = ("sh", "python", "js")
_BLOCK = re.compile(r"^```(\w*)[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)

# How each language waits for its next turn: a byte out says that the block is done, a byte in that the next may begin.
_TURN = {
    "sh": "printf . >&{out}; read -r -N1 -u {into} _ || exit 1\n",
    "python": "__import__('os').write({out}, b'.'); __import__('os').read({into}, 1) or __import__('sys').exit(1)\n",
    "js": "__fs.writeSync({out}, '.'); if (!__fs.readSync({into}, new Uint8Array(1))) process.exit(1);\n",
}
_HEAD = {"sh": "set -euo pipefail\n", "python": "", "js": "import * as __fs from 'node:fs';\n"}
_NAME = {"sh": "page.sh", "python": "page.py", "js": "page.mjs"}


@dataclass(frozen=True, slots=True)
class Block:
    """One example; ``line`` is the page's line of its first line."""

    language: str
    line: int
    text: str


class ExampleError(AssertionError):
    """An example of the docs does not run; names page and line, with what it printed."""


def examples(page: Path) -> list[Block]:
    """The examples of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], text.count("\n", 0, found.start(2)) + 1, found[2])
        for found in _BLOCK.finditer(text)
        if found[1] in LANGUAGES
    ]


def run_page(page: Path, environment: Mapping[str, str], folder: Path, *, timeout_s: float = 60) -> None:
    """Run every example of ``page`` in ``folder``; raises ExampleError at the first that fails or never ends."""
    blocks = examples(page)
    (folder / ".curlrc").write_text("fail-with-body\nno-progress-meter\n")
    inherited = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    here = {"PATH": f"{Path(sys.executable).parent}:{inherited.get('PATH', '')}", "HOME": str(folder)}
    variables = {**inherited, **here, "CURL_HOME": str(folder), **environment}
    deadline = time.monotonic() + timeout_s
    with ExitStack() as stack:
        sessions = {
            language: stack.enter_context(_session(language, mine, variables, folder))
            for language in LANGUAGES
            if (mine := [block for block in blocks if block.language == language])
        }
        for block in blocks:
            if not sessions[block.language].take_turn(deadline):
                raise ExampleError(f"{page.name}:{block.line}: {block.language}: {sessions[block.language].told()}")
        for language, session in sessions.items():
            if not session.end(deadline):
                raise ExampleError(f"{page.name}: {language} after its last block: {session.told()}")


@dataclass(slots=True)
class _Session:
    process: subprocess.Popen[bytes]
    go: int
    done: int
    output: Path

    def take_turn(self, deadline: float) -> bool:
        """Let the next block run; whether it came to its end."""
        self._tell_to_go()
        ready, _, _ = select.select([self.done], [], [], max(0.0, deadline - time.monotonic()))
        return bool(ready) and os.read(self.done, 1) == b"."

    def end(self, deadline: float) -> bool:
        """Whether the program ends by itself, and well."""
        self._tell_to_go()
        try:
            return self.process.wait(max(0.0, deadline - time.monotonic())) == 0
        except subprocess.TimeoutExpired:
            return False

    def _tell_to_go(self) -> None:
        with suppress(BrokenPipeError):  # it is gone already: its status says so
            os.write(self.go, b".")

    def told(self) -> str:
        status = self.process.poll()
        if status is None:
            with suppress(subprocess.TimeoutExpired):  # it has closed its turn a moment before it is gone
                status = self.process.wait(1)
        end = "did not end in time" if status is None else f"ended with status {status}"
        return f"{end}\n{self.output.read_text(errors='replace')[-4000:]}"


@contextmanager
def _session(language: str, blocks: Sequence[Block], variables: Mapping[str, str], folder: Path) -> Iterator[_Session]:
    """A process that runs these blocks one by one, each when told to."""
    go_read, go_write = os.pipe()
    done_read, done_write = os.pipe()
    turn = _TURN[language].format(out=done_write, into=go_read)
    program = folder / _NAME[language]
    # the first turn only waits, what it says is taken here; the last one is the end of the last block
    program.write_text(_HEAD[language] + turn + turn.join(block.text for block in blocks) + turn)
    command = {
        "sh": ["bash", str(program)],
        "python": [sys.executable, str(program)],
        "js": ["node", str(program)],
    }[language]
    output = folder / f"{language}.out"
    with output.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=(go_read, done_write),
            start_new_session=True,
        )
    os.close(go_read)
    os.close(done_write)
    try:
        os.read(done_read, 1)
        yield _Session(process, go_write, done_read, output)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(go_write)
        os.close(done_read)


def link_packages(folder: Path) -> None:
    """Let programs in ``folder`` import the JavaScript clients, as after `npm install`."""
    (folder / "node_modules").symlink_to(clients.HERE / "node_modules")
