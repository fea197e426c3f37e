"""What a stranger can put into a file, for tests that try it: hypothesis' strategies."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from detector.errors import UserError, for_terminal, has_control

# For what takes a tenth of a second a case.
fewer = settings(max_examples=settings.default.max_examples // 4)


# What a stranger can put where a value belongs.
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from([10**400, -1, 0, 2**64, 1e308, math.nan, math.inf, "NaN", "Infinity", "\x1b[2J", "a\nb"]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
tokens = st.sampled_from(
    ["train", "val", "names", "nc", "path", "source", "base", "model", "act", ": ", ":", "- ", "\n", "\n  ",
     "[", "]", "{", "}", "&a ", "*a", "!!set ", "!x ", "'", '"', "|\n", ">", "#", "? ", "---\n",
     "...\n", "%A 9\n",
     "<<: ", "0", "1e999", ".nan", "0x1F", "~", "\t", "\0", "\x85", "\u2028", "\\x", "\U0001f600", ", "]
)  # fmt: skip
documents = st.lists(tokens, max_size=30).map("".join) | st.text(max_size=60)


def printable(error: UserError) -> None:
    """A message moves no cursor, and no line of it is endless."""
    assert not any(has_control(line) for line in for_terminal(error).split("\n"))
    assert max(map(len, for_terminal(error).split("\n"))) < 2100


@st.composite
def spoilt(draw: st.DrawFn, sources: list[bytes]) -> bytes:
    """One of the sources with bytes changed, cut out, repeated or put in."""
    data = bytearray(draw(st.sampled_from(sources)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        piece = draw(
            st.binary(max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\xff\xd9", b"\xff\xda"])
        )
        match draw(st.sampled_from(["change", "insert", "cut", "repeat"])):
            case "change":
                data[at : at + len(piece)] = piece
            case "insert":
                data[at:at] = piece
            case "cut":
                del data[at : at + draw(st.integers(0, 40))]
            case "repeat":
                data[at:at] = data[max(0, at - 30) : at]
    return bytes(data)


def places(value: object, at: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if len(at) < 4 and not (isinstance(key, int) and key > 3):
            yield from places(item, (*at, key))


def replaced(value: Any, at: tuple[Any, ...], new: object) -> Any:
    """A copy in which one place holds something else, or nothing."""
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(at) == 1 and new is Ellipsis:
        del copy[at[0]]
    else:
        copy[at[0]] = replaced(value[at[0]], at[1:], new)
    return copy


def changed(good: Any) -> st.SearchStrategy[bytes]:
    """The JSON of something with one place replaced, or spoilt bytes of it."""
    one_place = st.builds(
        lambda at, new: json.dumps(replaced(good, at, new)).encode(),
        st.sampled_from(list(places(good))),
        values,
    )
    return one_place | spoilt([json.dumps(good).encode()]) | st.just(b"[" * 50_000)
