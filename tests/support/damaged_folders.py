"""Kinds of damage to files of a marked folder, each with its message."""

import json

from lora_ns.files.marks import MARK


def flipped(file, place, value=1):
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= value
    file.write_bytes(content)


def without_hashes(folder):
    """Reduce the mark to that of a version that recorded only sizes."""
    table = json.loads((folder / MARK).read_text())
    del table["sha256"]
    (folder / MARK).write_text(json.dumps(table))


DAMAGE = {
    "flipped": (lambda file: flipped(file, 77), "is damaged (its SHA-256 differs)"),
    "zeros": (lambda file: file.write_bytes(bytes(file.stat().st_size)), "is damaged (its SHA-256 differs)"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-3]), "is damaged ("),
    "longer": (lambda file: file.write_bytes(file.read_bytes() + b"x"), "is damaged ("),
    "missing": (lambda file: file.unlink(), "is missing"),
}
