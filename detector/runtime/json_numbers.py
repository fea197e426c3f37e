"""JSON of what a run records. It has neither NaN nor infinities: they are written as text."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, SupportsFloat, SupportsIndex

import orjson

_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(value: object, indent: int | None = None) -> str:
    """JSON of whatever a run records: NaN and infinities as text, NumPy's and torch's scalars as numbers."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def from_json(data: bytes) -> Any:
    """The reverse. In an object, or the objects of a list, text that names no finite number is that float.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        value = orjson.loads(data)
    except ValueError:
        try:  # knows a bare NaN, which other writers leave in their files, and numbers of any length
            value = json.loads(data, parse_int=lambda digits: (int if len(digits) < 20 else float)(digits))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
    return [_restored(item) for item in value] if isinstance(value, list) else _restored(value)


def number(value: object) -> float:
    """A float from what a file holds; NaN if it holds no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _restored(value: Any) -> Any:
    if not isinstance(value, dict) or str not in set(map(type, value.values())):
        return value
    return {key: _NONFINITE.get(item, item) if type(item) is str else item for key, item in value.items()}


def _plain(value: object) -> Any:
    """The value in the types JSON has. NumPy and torch scalars become numbers, other objects text."""
    if type(value) is float and math.isfinite(value):  # nearly all of a row; to ask for protocols is slow
        return value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, SupportsIndex):
        with suppress(TypeError):  # a tensor claims to be one and then refuses, if it holds a float
            return operator.index(value)
    if not isinstance(value, SupportsFloat):
        return str(value)
    found = float(value)
    if math.isfinite(found):
        return found
    return "NaN" if math.isnan(found) else "Infinity" if found > 0 else "-Infinity"
