"""Inputs that are nearly right: bytes of a valid file, changed, cut, doubled or stretched."""

from hypothesis import strategies as st

HOSTILE = (
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    "\u2028".encode(),
    b"\x1b[31m",
    b"\\ud800",
    b"9" * 5000,
    b"[" * 3000,
    b'"',
)
HOSTILE_TEXT = (
    "\0",
    "\x1b]0;x\x07",
    "\u202e",
    "x" * 5000,
    "9" * 5000,
    "[" * 3000,
    "{a=" * 1000,
    "a." * 500,
    '"""',
    "'",
)


@st.composite
def changed(draw, contents: list[bytes]) -> bytes:
    """One of some valid contents with a few changes."""
    content = draw(st.sampled_from(contents))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        to = min(len(content), at + draw(st.sampled_from((0, 1, 2, 7, 50))))
        piece = draw(
            st.one_of(st.just(b""), st.binary(max_size=6), st.sampled_from(HOSTILE), st.just(content[at:to] * 3))
        )
        content = content[:at] + piece + content[to:]
    return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 5)) == 0 else content


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(HOSTILE_TEXT),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=8,
)
"""Values of any type."""
