"""Rows in little memory: 8 bytes a number, where a list of dictionaries takes seventy.

A million rows of a trunk of 23 layers are 0.7 GB here and 8 GB there. Rows with the same keys lie in one
array; in a loop each is looked at where it lies, through a mapping that is no dictionary.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from detector.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Shape:
    """The rows that hold the same keys, with values of the same types."""

    def __init__(self, row: Row) -> None:
        self.places = {key: place for place, key in enumerate(row)}
        self.types = tuple(map(type, row.values()))
        self.numbers = array("q")  # which rows of the history they are
        self.values = array("d")  # of all of them, one behind the other

    def table(self) -> NDArray[np.float64]:
        """Their values, (rows, keys): a view, for whose life no row can be added."""
        import numpy as np

        return np.frombuffer(self.values).reshape(-1, max(1, len(self.places)))


class _Row(Mapping[str, Any]):
    """A row where it lies."""

    __slots__ = "_shape", "_start"

    def __init__(self, shape: _Shape, number: int) -> None:
        self._shape, self._start = shape, number * len(shape.places)

    def __getitem__(self, key: str) -> Any:
        place = self._shape.places[key]
        return self._shape.types[place](self._shape.values[self._start + place])

    def __contains__(self, key: object) -> bool:
        return key in self._shape.places

    def __iter__(self) -> Iterator[str]:
        return iter(self._shape.places)

    def __len__(self) -> int:
        return len(self._shape.places)

    def __repr__(self) -> str:
        return repr(self.copy())

    def copy(self) -> dict[str, Any]:
        """As a dictionary."""
        shape = self._shape
        values = shape.values[self._start : self._start + len(shape.places)]
        return {k: kind(v) for k, kind, v in zip(shape.places, shape.types, values, strict=True)}


class Rows(Sequence[Row]):
    """A history. Whole numbers keep their type, and their value up to 2^53."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._shapes: dict[tuple[object, ...], _Shape] = {}
        self._of: list[_Shape] = []  # of each row
        self._within = array("q")  # its index among the rows of that shape
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Add a row: whole numbers, floats and truth values by key."""
        kind = (*row, *map(type, row.values()))
        if (shape := self._shapes.get(kind)) is None:
            shape = self._shapes[kind] = _Shape(row)
        self._of.append(shape)
        self._within.append(len(shape.numbers))
        shape.numbers.append(len(self._of) - 1)
        shape.values.extend(row.values())

    def __len__(self) -> int:
        return len(self._of)

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, at: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, at: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        return _Row(self._of[at], self._within[at]).copy()

    def __iter__(self) -> Iterator[Row]:
        return map(_Row, self._of, self._within)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    def keys(self) -> list[str]:
        """Every key that a row has, in the order of their first rows."""
        return list(dict.fromkeys(key for shape in self._shapes.values() for key in shape.places))

    def having(self, wanted: Callable[[str], bool]) -> NDArray[np.int64]:
        """The numbers of the rows with a key that is wanted, in order."""
        import numpy as np

        found = [s.numbers for s in self._shapes.values() if any(map(wanted, s.places))]
        return np.sort(np.concatenate([np.empty(0, np.int64), *(np.array(n, np.int64) for n in found)]))

    def column(self, key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The numbers of the rows that have the key, in order, and its values."""
        import numpy as np

        shapes = [shape for shape in self._shapes.values() if key in shape.places]
        numbers = np.concatenate([np.empty(0, np.int64), *(np.array(s.numbers, np.int64) for s in shapes)])
        values = np.concatenate([np.empty(0), *(s.table()[:, s.places[key]] for s in shapes)])
        order = np.argsort(numbers)
        return numbers[order], values[order]

    def not_finite(self, counts: Callable[[str], bool]) -> NDArray[np.int64]:
        """The numbers of the rows in which a value is NaN or infinite, of the keys that count, in order."""
        import numpy as np

        found = [np.empty(0, np.int64)]
        for shape in self._shapes.values():
            places = [place for key, place in shape.places.items() if counts(key)]
            finite = np.ones(len(shape.numbers), bool)
            for place in places:  # a column at a time: a copy of the table would double the memory
                finite &= np.isfinite(shape.table()[:, place])
            found.append(np.array(shape.numbers, np.int64)[~finite])
        return np.sort(np.concatenate(found))
