"""What fine-tuning kept and what it forgot: the classes of two networks on one split."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from detector.tools.val.evaluation import Report

if TYPE_CHECKING:
    from rich.console import Console

OLD, NEW, GONE = "old", "new", "gone"  # known to both networks, to the later alone, to the earlier alone


class Change(NamedTuple):
    """One class that the split shows; a network that does not know it has no AP, and finds none."""

    name: str
    kind: str
    boxes: int
    before: float  # AP at IoU 0.50 to 0.95; NaN where it is not known
    after: float


def changes(
    before: Report, after: Report, known_before: Collection[str], known_after: Collection[str]
) -> list[Change]:
    """Every class with objects, in the data's order.

    Args:
        before: of the network that was trained on.
        after: of the one that came of it, on the same images.
        known_before: the classes of the first network.
        known_after: and of the second.
    """
    found = []
    for one, other in zip(before.classes, after.classes, strict=True):
        if not other.boxes:
            continue
        knew, knows = one.name in known_before, one.name in known_after
        kind = OLD if knew and knows else NEW if knows else GONE
        found.append(Change(
            one.name, kind, other.boxes, one.ap if knew else math.nan, other.ap if knows else math.nan
        ))  # fmt: skip
    return found


def means(found: Sequence[Change]) -> dict[str, dict[str, float]]:
    """Of each kind of class that there is: how many, and the mean AP before and after; null if not known.

    What is gone counts as 0 afterwards in `known`, all that the first network knew.
    """

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    result: dict[str, dict[str, float]] = {}
    for kind in (OLD, NEW, GONE):
        if of := [change for change in found if change.kind == kind]:
            result[kind] = {
                "classes": len(of),
                "before": mean([c.before for c in of]),
                "after": mean([c.after for c in of]),
            }
    if of := [change for change in found if change.kind != NEW]:
        after = mean([0.0 if c.kind == GONE else c.after for c in of])
        result["known"] = {"classes": len(of), "before": mean([c.before for c in of]), "after": after}
    return result


def document(found: Sequence[Change], checkpoint: str) -> dict[str, Any]:
    """As plain data: NaN becomes null when it is written."""
    return {"before": checkpoint, "mAP50-95": means(found), "classes": [change._asdict() for change in found]}


def print_changes(found: Sequence[Change], checkpoint: str, console: Console) -> None:
    """A table that fits into 80 columns: the classes that lost most first, then the means."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"AP50-95 before ({escape(checkpoint)}) and after")
    table.add_column("class", max_width=30, no_wrap=True, overflow="ellipsis")
    table.add_column("")
    for heading in ("boxes", "before", "after", "change"):
        table.add_column(heading, justify="right")
    order = (OLD, GONE, NEW)
    for c in sorted(found, key=lambda c: (order.index(c.kind), _difference(c.before, c.after))):
        numbers = _shown(c.before), _shown(c.after), _shown(_difference(c.before, c.after), "+")
        table.add_row(escape(c.name), c.kind, f"{c.boxes:,}", *numbers)
    table.add_section()
    words = {OLD: "old, still known", GONE: "gone", NEW: "new", "known": "all that was known"}
    for kind, one in means(found).items():
        cells = _shown(one["before"]), _shown(one["after"]), _shown(one["after"] - one["before"], "+")
        table.add_row(f"[bold]mean of {one['classes']:.0f} {words[kind]}[/]", "", "", *cells)
    console.print(table)


def _difference(before: float, after: float) -> float:
    return 0.0 if math.isnan(before) else -before if math.isnan(after) else after - before


def _shown(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.3f}"
