"""The numbers that say whether a gradient survives the trunk, and the verdict that rests on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

# Stored in summaries, so a word that was once given keeps its meaning.
Verdict = Literal["healthy", "dead forward", "vanishing", "exploding", "collapsed", "underflow", "diverged"]
FORWARD = "dead forward", "collapsed"  # those on the signal, which no gradient could mend by itself

# Below this a norm counts as zero: far under what any optimiser step can use, and a finite logarithm.
FLOOR = 1e-40

# The verdict's thresholds, calibrated at initialisation by `scripts/thresholds.py`, whose measurements are in
# docs/thresholds.json. They are in decades a layer, so that one defect has one verdict whatever the depth.
VANISHING_RATE, EXPLODING_RATE = -0.1, 0.08
# A healthy trunk gains half a decade or so at its ends. Over fewer layers than these that is as much a layer
# as a defect's, and only the total, in decades, can be judged.
SHALLOW = 12
VANISHING, EXPLODING = -1.0, 1.2
COLLAPSED = 0.002  # input dependence
DEAD = 5e-4  # RMS of the signal


def vanishing_index(norms: Sequence[float]) -> float:
    """Compare the first third of the trunk with the last: V, in decades.

    V = log10(median of the norms over the first third / median over the last third), each at least
    `FLOOR`. The gradient flows from the last layer to the first, so a negative V is a gradient that
    vanishes on its way and a positive V one that explodes.

    Args:
        norms: one norm a layer, from the input to the output. With activation gradients ‖dL/d(output)‖
            this is V; with weight gradients over weight norms it is W.

    Returns:
        V, or NaN if any norm is not finite.
    """
    if not all(math.isfinite(norm) for norm in norms):
        return math.nan
    first, last = thirds(norms)
    return math.log10(max(first, FLOOR)) - math.log10(max(last, FLOOR))


def thirds(norms: Sequence[float]) -> tuple[float, float]:
    """Medians over the first and the last third of the layers, a third being at least one layer."""
    if not norms:
        raise ValueError("at least one norm is needed")
    count = max(1, len(norms) // 3)
    return median(norms[:count]), median(norms[-count:])


def between_thirds(layers: int) -> int:
    """How many layers apart the middles of the first and the last third are: what V is measured over."""
    return max(1, layers - max(1, layers // 3))


def decades_per_layer(index: float, layers: int) -> float:
    """V by layer: of a gradient that changes by the same factor in every layer, that factor's logarithm."""
    return index / between_thirds(layers)


def limits(layers: int) -> tuple[float, float]:
    """Below which V the gradient of a trunk of so many recorded layers vanishes, above which it explodes."""
    if layers < SHALLOW:
        return VANISHING, EXPLODING
    return VANISHING_RATE * between_thirds(layers), EXPLODING_RATE * between_thirds(layers)


def verdict(
    norms: Sequence[float], index: float, input_dependence: float = math.nan, rms: float = math.nan
) -> Verdict:
    """Name the state of the trunk's gradient.

    | verdict        | when                                                                             |
    |----------------|----------------------------------------------------------------------------------|
    | `diverged`     | a norm is NaN or infinite                                                        |
    | `dead forward` | RMS < 0.0005 at the end of a level: the signal is lost, not the gradient           |
    | `underflow`    | the median norm of either third is below the floor: nothing left                 |
    | `vanishing`    | V < -0.10 decades a layer; below 12 layers, V < -1                               |
    | `exploding`    | V > +0.08 decades a layer; below 12 layers, V > +1.2                             |
    | `collapsed`    | I < 0.002: the trunk's output hardly depends on its input                         |
    | `healthy`      | otherwise                                                                        |

    The first row that holds is the verdict.

    Args:
        norms: activation-gradient norms, from the input to the output.
        index: V, usually `vanishing_index(norms)`; late in training its median over several steps.
        input_dependence: I, how far the trunk's output differs between images, over its RMS; NaN if unknown.
        rms: of the signal where it leaves the trunk, the smallest of the levels; NaN if unknown.
    """
    if not math.isfinite(index) or not all(math.isfinite(norm) for norm in norms):
        return "diverged"
    if rms < DEAD:
        return "dead forward"
    if min(thirds(norms)) < FLOOR:
        return "underflow"
    low, high = limits(len(norms))
    if index < low:
        return "vanishing"
    if index > high:
        return "exploding"
    if input_dependence < COLLAPSED:
        return "collapsed"
    return "healthy"
