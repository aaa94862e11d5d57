"""Hypothesis strategies that damage bytes and trees."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

BYTES = st.one_of(
    st.binary(min_size=1, max_size=8),
    # Bytes with a meaning in some format.
    st.sampled_from([b"\0", b"\xff" * 4, b"{", b"]", b'"', b"\n", b"-", b"9", b"8" * 11, b"1e999"]),
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, -(2**63), 10**400, 1e308]),
    st.floats(),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
)
TREES = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a damaged copy of bytes: truncated, overwritten, with insertions or deletions."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(changed)))
        length = draw(st.integers(0, 16))
        what = draw(st.sampled_from(["overwrite", "insert", "remove", "cut"]))
        if what == "overwrite":
            piece = draw(BYTES)
            changed[place : place + len(piece)] = piece
        elif what == "insert":
            changed[place:place] = draw(BYTES)
        elif what == "remove":
            del changed[place : place + length]
        else:
            del changed[place:]
    return bytes(changed)


@st.composite
def mutated(draw: st.DrawFn, tree: Any) -> Any:
    """Draw a copy of a tree of dicts and lists with an entry replaced, removed or added."""
    if draw(st.integers(0, 6)) == 0 or not isinstance(tree, dict | list) or not tree:
        return draw(TREES)
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = draw(st.sampled_from(keys))
    changed = type(tree)(tree)
    what = draw(st.sampled_from(["inside", "inside", "inside", "remove", "add"]))
    if what == "inside":
        changed[key] = draw(mutated(tree[key]))
    elif what == "remove":
        del changed[key]
    elif isinstance(changed, dict):
        changed[draw(st.text(max_size=5))] = draw(TREES)
    else:
        changed.append(draw(TREES))
    return changed
