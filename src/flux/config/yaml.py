"""YAML 1.2 files checked whole against a pydantic model; what is wrong is named by file, line, field and value.

``17:00`` stays text, a key written twice is an error, and a misspelt key is met with the nearest that exists.
"""

import difflib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from flux.errors import InputError

ModelT = TypeVar("ModelT", bound=BaseModel)
_MAX_PROBLEMS = 10


class YamlDocument:
    """A parsed file that still knows the line of each key."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        try:
            self.data: Any = YAML(typ="rt", pure=True).load(io.StringIO(text))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{source}:{mark.line + 1}" if mark else source
            problem = " ".join(str(error.problem or error.context or error).split())
            raise InputError(f"{where}: {problem}") from None
        except YAMLError as error:
            raise InputError(f"{source}: {' '.join(str(error).split())}") from None

    def line_of(self, path: Iterable[int | str]) -> int:
        """The 1-based line of the deepest part of ``path`` that exists in the file."""
        node, line = self.data, 1
        for part in path:
            if not isinstance(node, CommentedBase):
                break
            try:
                marks = node.lc.key(part) if isinstance(node, Mapping) else node.lc.item(part)
                node = node[part]  # type: ignore[index]  # a CommentedMap or CommentedSeq, which stubs don't say
            except (KeyError, IndexError, TypeError, AttributeError):
                continue  # a part that pydantic added to the path: the name of a union's member
            if marks is not None:
                line = marks[0] + 1
        return line

    def error(self, path: Iterable[int | str], message: str) -> InputError:
        """An error about ``path``: ``site.yaml:17: controller.interval: message``."""
        parts = list(path)
        return InputError(f"{self.source}:{self.line_of(parts)}: {_dotted(parts)}: {message}")

    def parse(self, model: type[ModelT], at: Iterable[str] = ()) -> ModelT:
        """Validate the section ``at`` as ``model``; all problems are told in one error, a line each."""
        section, prefix = self.data, tuple(at)
        for key in prefix:
            if not isinstance(section, Mapping) or key not in section:
                raise self.error(prefix, "is missing")
            section = section[key]
        if not isinstance(section, Mapping):
            raise self.error(prefix, f"expected keys and values, found {_kind(section)}")
        try:
            return model.model_validate(plain(section))
        except ValidationError as error:
            details = _without_echoes(error.errors(include_url=False), model)
            problems = [self._describe(prefix, one, model) for one in details]
            raise InputError("\n".join(dict.fromkeys(problems[:_MAX_PROBLEMS]))) from None

    def _in_file(self, path: list[int | str]) -> list[int | str]:
        """``path`` without the names of a union's members that pydantic puts between what the file has."""
        node: Any = self.data
        kept = []
        for part in path[:-1]:
            if isinstance(node, Mapping) and part not in node:
                continue
            kept.append(part)
            node = node[part] if isinstance(node, CommentedBase) else None  # type: ignore[index]  # as in line_of
        return [*kept, *path[-1:]]

    def _describe(self, prefix: tuple[str, ...], problem: Any, model: type[BaseModel]) -> str:
        path = self._in_file([*prefix, *problem["loc"]])
        message = str(problem["msg"]).removeprefix("Value error, ")
        if problem["type"] == "union_tag_invalid":
            key, tag, known = (str(problem["ctx"][name]) for name in ("discriminator", "tag", "expected_tags"))
            nearest = difflib.get_close_matches(tag, known.replace("'", "").split(", "), n=1)
            path.append(key.strip("'"))
            message = f"{tag!r}: " + (f"did you mean {nearest[0]!r}? " if nearest else "") + f"one of {known}"
        elif problem["type"] == "union_tag_not_found":
            key = str(problem["ctx"]["discriminator"]).strip("'")
            given = [str(name) for name in problem["input"]] if isinstance(problem["input"], Mapping) else []
            near = next(iter(difflib.get_close_matches(key, given, n=1)), None)
            message = f"has no key {key!r}" + (f"; did you mean it by {near!r}?" if near else "")
        elif problem["type"] == "too_short":
            message = f"{plain(problem['input'])!r}: at least {problem['ctx']['min_length']} must be named"
        elif problem["type"] in ("tuple_type", "list_type"):
            message = f"expected a list, found {_kind(problem['input'])}"
        elif problem["type"] in ("model_type", "dict_type"):
            message = f"expected keys and values, found {_kind(problem['input'])}"
        elif problem["type"] == "extra_forbidden":
            near = _nearest_key(str(path[-1]), model)
            message = "unknown key" + (f"; did you mean {near!r}?" if near else "")
        elif problem["type"] == "missing":
            message = "is missing"
        elif not isinstance(problem["input"], Mapping | list):
            message = f"{problem['input']!r}: {message[:1].lower()}{message[1:]}"
        return str(self.error(path, message))


def load_yaml(path: Path) -> YamlDocument:
    """Read and parse a file; a file that can't be read is an :class:`InputError` too."""
    try:
        return YamlDocument(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise InputError(f"{path}: {reason}") from None


def plain(node: Any) -> Any:
    """The node as ordinary dicts, lists, strings and numbers."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):  # ruamel's scalars are subclasses that remember how they were written
        if isinstance(node, kind):
            return kind(node)
    return node


def _dotted(path: list[int | str]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "file"


def _kind(value: Any) -> str:
    """What a person sees in the file."""
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list) else repr(value)


def _without_echoes(problems: Sequence[Any], model: type[BaseModel]) -> list[Any]:
    """Leave out what only follows from another problem: a key is missing that is there, misspelt; a list is short of
    the items that are wrong."""
    inner = {one["loc"][:depth] for one in problems for depth in range(len(one["loc"]))}
    problems = [one for one in problems if one["type"] != "too_short" or one["loc"] not in inner]
    meant = {
        (*one["loc"][:-1], _nearest_key(str(one["loc"][-1]), model))
        for one in problems
        if one["type"] == "extra_forbidden"
    }
    return [one for one in problems if one["type"] != "missing" or one["loc"] not in meant]


def _nearest_key(key: str, model: type[BaseModel]) -> str | None:
    known: set[str] = set()
    stack: list[type[BaseModel]] = [model]
    while stack:
        current = stack.pop()
        for name, info in current.model_fields.items():
            if name not in known:
                known.add(info.alias or name)
                stack.extend(_models_in(info.annotation))
    return next(iter(difflib.get_close_matches(key, known, n=1)), None)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
