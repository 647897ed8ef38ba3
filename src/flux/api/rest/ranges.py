"""Which rows of all that match: ``limit``, ``offset`` and the ``Range`` header; and ``Content-Range`` of the answer.

::

    limit=10&offset=20  or  Range: 20-29   →  Window(offset=20, limit=10)   →  Content-Range: 20-29/*
"""

import re
from dataclasses import dataclass

from flux.api.rest.errors import ApiError

_RANGE = re.compile(r"(?:items=)?([0-9]{1,18})-([0-9]{0,18})\Z")


@dataclass(frozen=True, slots=True)
class Window:
    """``limit`` None: all from ``offset`` on."""

    offset: int = 0
    limit: int | None = None

    def content_range(self, rows: int, total: int | None) -> str:
        """``rows``: how many the answer has; ``total``: how many match, None: not counted."""
        shown = "*" if not rows else f"{self.offset}-{self.offset + rows - 1}"
        return f"{shown}/{'*' if total is None else total}"

    def status(self, rows: int, total: int | None, *, cut: bool = False) -> int:
        """200, or 206 where there are more rows than these. ``cut``: the server's own limit ended them.

        ApiError 416 (PGRST103) where the window begins behind the last row.
        """
        if total is not None and self.offset > total:
            raise not_satisfiable(f"An offset of {self.offset} was requested, but there are only {total} rows.")
        return 206 if cut or (total is not None and rows < total) else 200


def window(limit: int | None, offset: int, header: str | None) -> Window:
    """What the query string and the ``Range`` header leave when both hold; a header that is no range says nothing.

    ApiError 416 (PGRST103) where nothing is left.
    """
    found = _RANGE.match(header.strip()) if header is not None else None
    if found is None or limit == 0:
        return Window(offset, limit)
    first = int(found[1])
    last = int(found[2]) if found[2] else None
    if last is not None and last < first:
        raise not_satisfiable(
            "The lower boundary must be lower than or equal to the upper boundary in the Range header."
        )
    begin = max(first, offset)
    ends = [end for end in (last, None if limit is None else offset + limit - 1) if end is not None]
    end = min(ends) if ends else None
    if end is not None and end < begin:
        raise not_satisfiable(
            "The lower boundary must be lower than or equal to the upper boundary in the Range header."
        )
    return Window(begin, None if end is None else end - begin + 1)


def not_satisfiable(details: str) -> ApiError:
    return ApiError(416, "PGRST103", "Requested range not satisfiable", details)
