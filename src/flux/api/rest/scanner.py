"""Reads one value of a query string from left to right; what it does not expect is error PGRST100 with its place."""

import json
import re

from flux.api.rest.errors import ApiError

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_BLANK = re.compile(r"[ \t]*")
_DASHED = re.compile(r"[\w $]+(?:-(?!>)[\w $]+)*")
_SHOWN = 200
"""Characters of a value that an error repeats."""


class Scanner:
    """A place in ``text``, which is called ``what`` in errors."""

    __slots__ = ("at", "text", "what")

    def __init__(self, text: str, what: str) -> None:
        self.text = text
        self.what = what
        self.at = 0

    def error(self, expecting: str) -> ApiError:
        """PGRST100 at this place, in the words that clients of PostgREST know."""
        found = json.dumps(self.text[self.at], ensure_ascii=False) if self.at < len(self.text) else "end of input"
        shown = self.text if len(self.text) <= _SHOWN else self.text[:_SHOWN] + "…"
        title = json.dumps(f"failed to parse {self.what} ({shown})", ensure_ascii=False)
        message = f"{title} (line 1, column {self.at + 1})"
        return ApiError(400, "PGRST100", message, f"unexpected {found} expecting {expecting}")

    @property
    def ended(self) -> bool:
        return self.at >= len(self.text)

    def end(self, expecting: str = "end of input") -> None:
        """Raise unless all of the text has been read."""
        if self.at < len(self.text):
            raise self.error(expecting)

    def skip_blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def accept(self, literal: str) -> bool:
        """Go past ``literal`` where it stands here."""
        if self.text.startswith(literal, self.at):
            self.at += len(literal)
            return True
        return False

    def expect(self, literal: str) -> None:
        if not self.accept(literal):
            raise self.error(f'"{literal}"')

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Go past ``pattern`` where it stands here."""
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
        return found

    def looking_at(self, pattern: re.Pattern[str]) -> bool:
        return pattern.match(self.text, self.at) is not None

    def quoted(self) -> str | None:
        """The inside of a quoted text; a backslash stands before what is meant as it is."""
        found = self.match(_QUOTED)
        return None if found is None else unescaped(found[1])

    def name(self, expecting: str = "field name (* or [a..z0..9_$])") -> str:
        """A name: quoted, or letters, digits, ``_``, ``$``, single dashes and inner spaces."""
        start = self.at
        quoted = self.quoted()
        if quoted is None:
            found = self.match(_DASHED)
            quoted = stripped(found[0]) if found else ""
        if not quoted:
            self.at = start
            raise self.error(expecting)
        return quoted


def unescaped(text: str) -> str:
    """Without the backslashes of a quoted text."""
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def stripped(text: str) -> str:
    """Spaces at the ends of a name, and around its dashes, mean nothing."""
    return "-".join(part.strip() for part in text.split("-")) if "-" in text else text.strip()
