"""The rooms of `lora_ns` and what each imports: `python tests/house/rooms.py` draws them in docs/architecture.md.

The picture is Mermaid rather than SVG: GitHub renders it, nothing has to be installed to draw it, and a new import is
one new line in a diff.
"""

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "lora_ns"
PAGE = PROJECT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawn by tests/house/rooms.py -->\n", "<!-- end of the drawing -->\n"

Graph = Mapping[str, frozenset[str]]
"""Room to the rooms that it imports."""


def rooms() -> frozenset[str]:
    """The folders of the package, and the modules that are in none."""
    return frozenset(entry.stem for entry in PACKAGE.iterdir() if not entry.name.startswith("_") and _has_code(entry))


def _has_code(entry: Path) -> bool:
    return entry.suffix == ".py" or (entry.is_dir() and any(entry.rglob("*.py")))


@functools.cache
def imports() -> Graph:
    """What the modules of each room import from other rooms: at their top, in functions, and for types alone."""
    known = rooms()
    return {room: known & frozenset(_imported_by(room)) - {room} for room in known}


def _imported_by(room: str) -> Iterator[str]:
    """The second part of every name that a room imports from the package."""
    loose = PACKAGE / f"{room}.py"
    for file in [loose] if loose.exists() else (PACKAGE / room).rglob("*.py"):
        for name in _imported_names(ast.parse(file.read_text(encoding="utf-8"))):
            if name.startswith(f"{PACKAGE.name}."):
                yield name.split(".")[1]


def _imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reach(graph: Graph, room: str) -> frozenset[str]:
    """The rooms that a room imports, directly or through others."""
    found: set[str] = set()
    pending = set(graph[room])
    while pending:
        found |= pending
        pending = {below for room in pending for below in graph[room]} - found
    return frozenset(found)


def reduced(graph: Graph) -> Graph:
    """The graph without the arrows that follow from others; it must have no circle."""
    implied = {room: {far for near in below for far in reach(graph, near)} for room, below in graph.items()}
    return {room: below - implied[room] for room, below in graph.items()}


def drawing() -> str:
    """The rooms, from the top, and the arrows that do not follow from others, as Mermaid."""
    graph = imports()
    lines = []
    for room in sorted(graph, key=lambda room: (-len(reach(graph, room)), room)):
        lines += [f"    {room} --> {below}" for below in sorted(reduced(graph)[room])] or [f"    {room}"]
    return "\n".join([BEGIN + "```mermaid", "flowchart TB", *lines, "```", END])


def with_drawing(page: str) -> str:
    """The page with the drawing in its place."""
    before, _, rest = page.partition(BEGIN)
    return before + drawing() + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_drawing(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
