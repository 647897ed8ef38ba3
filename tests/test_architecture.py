"""Imports between the rooms of src/flux point one way only."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "flux"

# A room may import from the rooms of the layers before its own, and from the shared modules.
LAYERS: list[set[str]] = [
    {"errors"},
    {"model"},
    {"config", "charts"},
    {"control", "devices", "market"},
    {"store", "registry"},
    {"edge", "analysis", "api"},
    {"ui", "local"},
    {"cli"},
    {"__main__"},
]
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
# registry keeps its devices in the store; nothing in the store knows of the registry
ALLOWED_WITHIN_LAYER = {("registry", "store"), ("api", "edge")}


def room_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module or ""]
            if node.module == "flux":
                names = [f"flux.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("flux.") and name.split(".")[1] in LAYER_OF}
    return rooms


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    for other in imported_rooms(path) - {room}:
        allowed = LAYER_OF[other] < LAYER_OF[room] or (room, other) in ALLOWED_WITHIN_LAYER
        assert allowed, f"{path.relative_to(SRC)} ({room}) must not import {other}"


def test_every_folder_is_a_known_room() -> None:
    rooms = {room_of(path) for path in SRC.rglob("*.py")} - {"__init__"}
    assert rooms <= set(LAYER_OF)
