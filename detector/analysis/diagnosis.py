"""What a run's history says about its gradients: at initialisation and late in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from detector.gradients.indices import decades_per_layer, verdict
from detector.rows import Key, Row, by_layer

PROBED = Key.PROBE_AUC, Key.AUTOCORRELATION


def diagnose(rows: Sequence[Row], steps: int, *, diverged: bool = False) -> dict[str, float | str | None]:
    """Sum up the recorded steps.

    Args:
        rows: the history, oldest first; rows without gradients are passed over.
        steps: the steps the run was planned for. Late means the last third of them, or if the run ended
            earlier, of those it reached.
        diverged: whether training ended in numbers that are not finite.

    Returns:
        `gradient/vanishing_index_init`, `gradient/weight_index_init`, `gradient/verdict_init` of the first
        step, and `gradient/vanishing_index`, `gradient/verdict` and `signal/input_dependence`: medians over
        late training. V by layer has both, and so has the signal's RMS at the end of each level where it was
        recorded. Empty if nothing was recorded; the `_init` keys are null if step 0 was not.
    """
    recorded = [row for row in rows if Key.VANISHING_INDEX in row]
    if not recorded:
        return {}
    first, last = recorded[0], recorded[-1]
    at_init = first if first[Key.STEP] == 0 else {}
    late = late_rows(recorded, steps)
    index = median_of(late, Key.VANISHING_INDEX)
    dependence = median_of(late, Key.INPUT_DEPENDENCE)
    sizes = {key: median_of(late, key) for key in last if key.startswith(Key.RMS)}
    ending = verdict(activation_norms(last), index, dependence, min(sizes.values(), default=math.nan))
    return {
        Key.VANISHING_INDEX + Key.INIT: at_init.get(Key.VANISHING_INDEX),
        Key.WEIGHT_INDEX + Key.INIT: at_init.get(Key.WEIGHT_INDEX),
        Key.VERDICT + Key.INIT: verdict_of(at_init) if at_init else None,
        Key.VANISHING_INDEX: index,
        Key.DECADES_PER_LAYER + Key.INIT: rate_of(first[Key.VANISHING_INDEX], first) if at_init else None,
        Key.DECADES_PER_LAYER: rate_of(index, last),
        Key.VERDICT: "diverged" if diverged else ending,
        Key.INPUT_DEPENDENCE: dependence,
        **{key + Key.INIT: at_init.get(key) for key in sizes},
        **sizes,
        **{key + Key.INIT: value for key, value in at_init.items() if key.startswith(PROBED)},
        **{key: value for key, value in last.items() if key.startswith(PROBED) and last is not at_init},
    }


def late_rows(rows: Sequence[Row], steps: int) -> list[Row]:
    """The rows of the last third of the steps, or of the steps reached; always at least one."""
    end = min(steps, int(rows[-1][Key.STEP]) + 1)
    return [row for row in rows if row[Key.STEP] >= end * 2 / 3] or [rows[-1]]


def activation_norms(row: Row) -> list[float]:
    """One row's activation-gradient norms, from the input to the output."""
    return list(by_layer(row, Key.ACTIVATION_GRAD).values())


def verdict_of(row: Row) -> str:
    """The verdict on one recorded step."""
    rms = min((value for key, value in row.items() if key.startswith(Key.RMS)), default=math.nan)
    dependence = row.get(Key.INPUT_DEPENDENCE, math.nan)
    return verdict(activation_norms(row), row[Key.VANISHING_INDEX], dependence, rms)


def rate_of(index: float, row: Row) -> float:
    """V in decades a layer of those that the row has."""
    return decades_per_layer(index, len(activation_norms(row)))


def median_of(rows: Sequence[Row], key: str) -> float:
    """The median of a key over the rows that have it; NaN if one of them is NaN, or none has it."""
    values = [row[key] for row in rows if key in row]
    return math.nan if not values or any(math.isnan(v) for v in values) else median(values)
