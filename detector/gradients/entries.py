"""The ledger on paper: its entries, their rows in a run's directory, and what they add up to. No PyTorch.

`detector.gradients.ledger` measures them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from detector.gradients.indices import FLOOR
from detector.rundir import RunDir
from detector.runtime.json_numbers import number


@dataclass(frozen=True)
class Entry:
    """What one operation did to the gradient on its way back.

    Within a block the factors multiply to ‖g(input)‖ / ‖g(output)‖, and over all blocks to what the recorder
    measures between the last block's output and the first's.
    """

    block: str  # the recorder's name: 07_p3.4
    operation: str  # its place in the block: conv1.conv, conv1.norm, …, shortcut, neck; in network order
    layer: str  # what it is: convolution, batch norm, sigmoid, shortcut, neck, …
    factor: float  # ‖dL/d(input)‖ / ‖dL/d(output)‖: below 1 the gradient shrinks; NaN if not finite

    @property
    def decades(self) -> float:
        """log10 of the factor: negative is lost. Of an underflow, the floor's: -40."""
        return math.log10(max(self.factor, FLOOR)) if math.isfinite(self.factor) else math.nan


RESIDUAL = "residual blocks"  # as one cause: branch and identity run side by side, and are not to be added up


@dataclass(frozen=True)
class Stretch:
    """Neighbouring blocks, and what they do to the gradient between them."""

    first: str  # names as in the entries
    last: str
    decades: float  # negative is lost, positive gained
    layers: dict[str, float]  # decades by kind of layer, the largest cause first
    identity: float | None = None  # of its residual blocks, the median of `identity_share`

    @property
    def blocks(self) -> str:
        """`p3.2 to p3.9`."""
        first, last = short(self.first), short(self.last)
        return first if first == last else f"{first} to {last}"

    def __str__(self) -> str:
        """`blocks p3.2 to p3.9 lose 4.1 decades, 3.9 of them in the sigmoid`."""
        verb = "lose" if self.decades < 0 else "gain"
        subject = (
            f"blocks {self.blocks} {verb}" if self.first != self.last else f"block {self.blocks} {verb}s"
        )
        text = f"{subject} {abs(self.decades):.1f} decades"
        layer, decades = next(iter(self.layers.items()))
        if abs(decades) > abs(self.decades):
            return f"{text}: {abs(decades):.1f} in the {layer}, made up for in part by other operations"
        return f"{text}, {abs(decades):.1f} of them in the {layer}"


def short(block: str) -> str:
    """`p3.2` of `07_p3.2`."""
    return block.split("_", 1)[-1]


def summarise_ledger(entries: Sequence[Entry], *, gain: bool = False) -> Stretch | None:
    """The largest fall of the gradient on its way back: between which blocks, and in which operations.

    It is the largest fall of the recorder's curve, so what joins from the neck counts as the gain that it
    is: a gradient lost behind such a place matters little in front of it. A norm undoes its convolution's
    scale, so the two are one cause: only their sum means something. So is a residual block.

    Args:
        entries: one step's, in network order.
        gain: look for the largest rise instead.

    Returns:
        The stretch, or None if nothing falls (rises), or a factor is not finite.
    """
    blocks: dict[str, float] = {}
    for entry in entries:
        blocks[entry.block] = blocks.get(entry.block, 0.0) + entry.decades
    if not all(math.isfinite(value) for value in blocks.values()):
        return None
    sign = 1 if gain else -1
    names = list(blocks)
    start, stop, best = _largest_run([sign * value for value in blocks.values()])
    if best <= 0:
        return None
    normed = {(entry.block, _unit(entry)) for entry in entries if entry.operation.endswith("norm")}
    layers: dict[str, float] = {}
    shares = {block: share for block, share in identity_shares(entries).items() if block in names[start:stop]}
    for entry in entries:
        if entry.block not in names[start:stop]:
            continue
        if entry.block in shares:
            layers[RESIDUAL] = layers.get(RESIDUAL, 0.0) + entry.decades
            continue
        scale = entry.operation.endswith(("conv", "norm")) and (entry.block, _unit(entry)) in normed
        layer = "convolution with its norm" if scale else entry.layer
        layers[layer] = layers.get(layer, 0.0) + entry.decades
    ordered = dict(sorted(layers.items(), key=lambda item: -sign * item[1]))
    identity = median(shares.values()) if shares else None
    return Stretch(names[start], names[stop - 1], sign * best, ordered, identity)


def identity_shares(entries: Sequence[Entry]) -> dict[str, float]:
    """By which way the gradient of each residual block comes back to its input: the identity's share, 0 to 1.

    With y = x + f(x) the gradient at x is the sum of two, g_y by the identity and f'ᵀ g_y through the branch.
    Their squared norms are as 1 to b², where b is the product of the branch's factors: the share is
    1 / (1 + b²). How the two add up (at a right angle, in one direction or against each other) is in the
    block's factor, not in the shares.
    """
    residual = {entry.block for entry in entries if entry.layer == "shortcut"}
    branch = dict.fromkeys(residual, 1.0)
    for entry in entries:
        if entry.block in residual and entry.layer != "shortcut":
            branch[entry.block] *= entry.factor
    return {block: 1 / (1 + factor * factor) for block, factor in branch.items()}


def _unit(entry: Entry) -> str:
    """`conv1` of `conv1.conv`."""
    return entry.operation.rpartition(".")[0]


def _largest_run(values: Sequence[float]) -> tuple[int, int, float]:
    """Start, stop and sum of the run of neighbours with the largest sum (Kadane's algorithm)."""
    best, begin = (0, 1, -math.inf), 0
    total = 0.0
    for at, value in enumerate(values):
        if total <= 0:
            begin, total = at, 0.0
        total += value
        if total > best[2]:
            best = begin, at + 1, total
    return best


def write_ledger(run: RunDir, step: int, entries: Sequence[Entry]) -> None:
    """Put one step's entries into a run's ledger; they replace what it holds from that step on.

    The file is a JSON list of rows `step`, `block`, `operation`, `layer`, `factor`, `log10`, in the order of
    steps and of the network. A factor that is not finite, and the logarithm of zero, are null.
    """
    rows = [row for row in run.read_ledger() if row["step"] < step]
    rows += [
        {
            "step": step,
            "block": entry.block,
            "operation": entry.operation,
            "layer": entry.layer,
            "factor": entry.factor if math.isfinite(entry.factor) else None,
            "log10": math.log10(entry.factor) if 0 < entry.factor < math.inf else None,
        }
        for entry in entries
    ]
    run.write_ledger(rows)


def read_ledger(run: RunDir) -> dict[int, list[Entry]]:
    """The entries of each step in a run's ledger; empty if there is none, or it cannot be read."""
    steps: dict[int, list[Entry]] = {}
    for row in run.read_ledger():
        layer = str(row.get("layer") or row["operation"])
        entry = Entry(row["block"], row["operation"], layer, number(row["factor"]))
        steps.setdefault(row["step"], []).append(entry)
    return steps
