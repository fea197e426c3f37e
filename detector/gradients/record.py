"""The record of a step: under which keys, and in which order, stands what the recorder measured.

Of each layer `NN_name`, `activation_grad/NN_name`; if it has trainable weights, `weight_grad/NN_name` and
`update_ratio/NN_name`. Of each module `NNN_name` inside, `point_activation_grad/NNN_name` and
`point_weight_grad/NNN_name`. Of the layers alone, `gradient/vanishing_index` (V), `gradient/weight_index` (W:
the index of ‖dL/dw‖ / ‖w‖) and what `SignalMeter` adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from detector.gradients.indices import vanishing_index
from detector.rows import Key

INSIDE = "inside/"  # before the names of points that are not layers, since both count from 0
POINTS = {Key.ACTIVATION_GRAD: Key.POINT_ACTIVATION_GRAD, Key.WEIGHT_GRAD: Key.POINT_WEIGHT_GRAD}
Record = dict[str, float]


def record_of(values: Mapping[str, float], layers: Iterable[str], inside: Iterable[str]) -> Record:
    """The record, in network order.

    Args:
        values: the norms: `activation_grad/…` and `weight_grad/…` of layers and of modules inside, and of the
            layers with weights `weight/…` and, if the weights have moved since, `update/…`.
        layers: their names, in network order.
        inside: the names of the modules inside, each behind `INSIDE`.
    """
    record: Record = {}
    layers = list(layers)
    for kind in (Key.ACTIVATION_GRAD, Key.WEIGHT_GRAD):
        record |= {key: values[key] for name in layers if (key := kind + name) in values}
    for kind, point in POINTS.items():
        for name in inside:
            if kind + name in values:
                record[point + name.removeprefix(INSIDE)] = values[kind + name]
    for name in layers:
        if (change := values.get(f"update/{name}")) is not None:
            record[Key.UPDATE_RATIO + name] = ratio(change, values[f"weight/{name}"])
    activation = [value for key, value in record.items() if key.startswith(Key.ACTIVATION_GRAD)]
    if activation:
        record[Key.VANISHING_INDEX] = vanishing_index(activation)
    trained = [name for name in layers if Key.WEIGHT_GRAD + name in values]
    if trained:
        weight = [ratio(values[Key.WEIGHT_GRAD + name], values[f"weight/{name}"]) for name in trained]
        record[Key.WEIGHT_INDEX] = vanishing_index(weight)
    return record


def ratio(part: float, whole: float) -> float:
    """`part / whole`; of nothing, 0 stays 0 and anything else is infinite."""
    if whole:
        return part / whole
    return part if part == 0 else float("inf")
