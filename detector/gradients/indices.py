"""The numbers that say whether a gradient survives the trunk, and the verdict that rests on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

# Stored in summaries, so a word that was once given keeps its meaning.
Verdict = Literal["healthy", "dead forward", "vanishing", "exploding", "collapsed", "underflow", "diverged"]

# Below this a norm counts as zero: far under what any optimiser step can use, and a finite logarithm.
FLOOR = 1e-40

# Thresholds in decades, chosen on 41 trunk convolutions: see `verdict`.
VANISHING, EXPLODING = -1.0, 1.2
COLLAPSED = 0.002  # input dependence
DEAD = 3e-4  # RMS of the signal


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


def verdict(
    norms: Sequence[float], index: float, input_dependence: float = math.nan, rms: float = math.nan
) -> Verdict:
    """Name the state of the trunk's gradient.

    | verdict        | when                                                                             |
    |----------------|----------------------------------------------------------------------------------|
    | `diverged`     | a norm is NaN or infinite                                                        |
    | `dead forward` | RMS < 0.0003 at the end of a level: the signal is lost, not the gradient           |
    | `underflow`    | the median norm of either third is below the floor: nothing left                 |
    | `vanishing`    | V < -1                                                                           |
    | `exploding`    | V > +1.2                                                                         |
    | `collapsed`    | I < 0.002: the trunk's output hardly depends on its input                         |
    | `healthy`      | otherwise                                                                        |

    The first row that holds is the verdict. The thresholds were chosen at a depth of 41 convolutions:
    V grows with depth even in a trunk that trains well.

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
    if index < VANISHING:
        return "vanishing"
    if index > EXPLODING:
        return "exploding"
    if input_dependence < COLLAPSED:
        return "collapsed"
    return "healthy"
