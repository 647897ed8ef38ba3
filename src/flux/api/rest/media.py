"""Which of the forms of an answer the client takes, by its ``Accept`` header."""

from enum import Enum

from flux.api.rest.errors import ApiError

_CHARSET = "; charset=utf-8"
_MOST_TYPES = 50


class Media(Enum):
    """A form of the rows of an answer."""

    JSON = "application/json"
    """An array of objects."""
    STRIPPED = "application/vnd.pgrst.array+json;nulls=stripped"
    """The same without the keys whose value is null."""
    OBJECT = "application/vnd.pgrst.object+json"
    """One object, of exactly one row."""
    STRIPPED_OBJECT = "application/vnd.pgrst.object+json;nulls=stripped"
    CSV = "text/csv"

    @property
    def content_type(self) -> str:
        return self.value + _CHARSET

    @property
    def single(self) -> bool:
        return self in {Media.OBJECT, Media.STRIPPED_OBJECT}

    @property
    def stripped(self) -> bool:
        return self in {Media.STRIPPED, Media.STRIPPED_OBJECT}


_BY_NAME = {
    "*/*": Media.JSON,
    "application/*": Media.JSON,
    "application/json": Media.JSON,
    "application/vnd.pgrst.array+json": Media.JSON,
    "application/vnd.pgrst.array": Media.JSON,
    "application/vnd.pgrst.object+json": Media.OBJECT,
    "application/vnd.pgrst.object": Media.OBJECT,
    "text/csv": Media.CSV,
}
_STRIPPED = {Media.JSON: Media.STRIPPED, Media.OBJECT: Media.STRIPPED_OBJECT}


def negotiate(accept: str | None) -> Media:
    """The first form that the client takes, the best of its weights first; ApiError 406 (PGRST107): none of them."""
    if accept is None or not accept.strip():
        return Media.JSON
    wanted = sorted((_weighed(part) for part in accept.split(",")[:_MOST_TYPES]), key=lambda one: -one[0])
    for weight, essence, stripped in wanted:
        media = _BY_NAME.get(essence)
        if media is not None and weight > 0:
            return _STRIPPED.get(media, media) if stripped and "vnd.pgrst" in essence else media
    shown = ", ".join(part.strip() for part in accept[:1000].split(","))
    raise ApiError(406, "PGRST107", f"None of these media types are available: {shown}")


def _weighed(part: str) -> tuple[float, str, bool]:
    """Weight, type, and whether nulls are to be left out."""
    essence, *parameters = (piece.strip().lower() for piece in part.split(";"))
    weight = next((_number(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
    return weight, essence, "nulls=stripped" in parameters


def _number(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
