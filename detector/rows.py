"""What stands in a row: the words of `history.jsonl`, of W&B and of `summary.json`, spelt in this one place.

[row[Key.LOSS] for row in rows]
by_layer(row, Key.ACTIVATION_GRAD)  # {"00_stem": …, "01_p2.down": …}
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

Row = Mapping[str, float]
"""One logged step: `step`, `epoch` and any of the measured keys, e.g. `activation_grad/07_p3.4`."""


class Key:
    """What the keys of a row are called, in `history.jsonl` and on W&B, and some of `summary.json`."""

    STEP, EPOCH = "step", "epoch"  # both from 0
    LOSS = "train/loss"  # the sum of the three below
    LOSS_BOX, LOSS_CLS, LOSS_DFL = "train/loss_box", "train/loss_cls", "train/loss_dfl"  # each with its gain
    LR = "train/lr"  # of this step
    GRAD_NORM = "train/grad_norm"  # of all weights together, before clipping
    # What clipping multiplied the gradients by. Clipped by part, trunk and rest have theirs behind it.
    CLIP_FACTOR, TRUNK, REST = "train/clip_factor", "_trunk", "_rest"
    TRUNK_SHARE = "train/trunk_share"  # of the squared norm before clipping, 0 to 1
    SKIPPED = "train/skipped"  # steps that were not taken so far; only in the row of such a step
    STEP_MS = "time/step_ms"  # milliseconds
    # An evaluation's row has these too. On COCO8 the train images show what was memorized.
    MAP, MAP50 = "mAP50-95", "mAP50"  # behind `train/` or `val/`
    TRAIN_MAP, TRAIN_MAP50 = f"train/{MAP}", f"train/{MAP50}"
    VAL_MAP, VAL_MAP50 = f"val/{MAP}", f"val/{MAP50}"
    # A recorded step's row has a number for each layer behind these, such as `activation_grad/07_p3.4`.
    ACTIVATION_GRAD = "activation_grad/"  # ‖dL/d(output)‖
    WEIGHT_GRAD = "weight_grad/"  # ‖dL/dw‖
    UPDATE_RATIO = "update_ratio/"  # ‖change of w in this step‖ / ‖w‖
    # The first two of other modules, such as `point_activation_grad/017_model.4.m.0.cv1`: `gradients.points`.
    POINT_ACTIVATION_GRAD, POINT_WEIGHT_GRAD = "point_activation_grad/", "point_weight_grad/"
    # The same before `gradients.impose` or `gradients.equalise` rescaled them; only where one of them does.
    RAW_ACTIVATION_GRAD, RAW_WEIGHT_GRAD = "raw_activation_grad/", "raw_weight_grad/"
    VANISHING_INDEX = "gradient/vanishing_index"  # decades; in the summary late in training
    DECADES_PER_LAYER = "gradient/decades_per_layer"  # V by layer; only in the summary
    WEIGHT_INDEX = "gradient/weight_index"  # the same of ‖dL/dw‖ / ‖w‖
    # How much of the trunk's output differs between images: see `detector.gradients.signal`. The levels of
    # the pyramid have theirs behind `_p3` and so on, and so has the size of the signal there.
    INPUT_DEPENDENCE, RMS = "signal/input_dependence", "signal/rms"
    # In the first row and the last, see `detector.gradients.probe`. A level is behind PROBE_AUC, such as _p3,
    # and _p3_position is what the place alone gives away.
    PROBE_AUC, AUTOCORRELATION = "signal/probe_auc", "gradient/autocorrelation"
    # In the first row and the last too, a number for each layer behind these: see `detector.gradients.units`.
    DEAD_UNITS, SATURATION = "dead_units/", "saturation/"  # shares, 0 to 1
    # What a network costs, only in the summary. A pass is the fastest of several: see `models.size.image_ms`.
    PARAMETERS, FLOPS, IMAGE_MS = "parameters", "flops", "time/image_ms"
    MODEL = "model"  # the file of a YOLO, such as yolo26n.yaml; absent for our own network
    NETWORK = "network"  # the layers of a YOLO as in its YAML: [from, repeats, module, arguments]
    # Only in the summary. `_INIT` behind a key means before the first step.
    INIT = "_init"
    VERDICT = "gradient/verdict"  # such as vanishing
    DIAGNOSIS = "gradient/diagnosis"  # a paragraph
    STEPS_LOST = "steps_lost"  # whose rows were lost behind the run's back; absent where none was
    # Where numbers first were not finite.
    FIRST_BAD_LAYER, FIRST_BAD_OPERATION = "gradient/first_bad_layer", "gradient/first_bad_operation"

    LOSSES = LOSS_BOX, LOSS_CLS, LOSS_DFL


def own_metrics(row: Iterable[str]) -> list[str]:
    """The registered metrics that a row or a summary holds, such as `recall` for `val/recall`."""
    found = (key.removeprefix("val/") for key in row if key.startswith("val/"))
    return [name for name in found if name not in (Key.MAP, Key.MAP50)]


def by_layer(row: Row, kind: str) -> dict[str, float]:
    """A row's numbers of one kind, such as `Key.ACTIVATION_GRAD`, by layer, from the input to the output."""
    found = {key.removeprefix(kind): value for key, value in row.items() if key.startswith(kind)}
    return dict(sorted(found.items(), key=lambda item: depth_of(item[0])))


def layers_in(rows: Iterable[Row], kind: str) -> list[str]:
    """The layers that any of the rows has a number of this kind for, from the input to the output."""
    keys = {key for row in rows for key in row}
    return sorted((key.removeprefix(kind) for key in keys if key.startswith(kind)), key=depth_of)


def lost_between(steps: Iterable[float], summary: Mapping[str, Any]) -> list[int]:
    """Of the lost steps, the first between each two that are there: no line may be drawn across it.

    Args:
        steps: that are there, in order.
        summary: of the run; what is odd in it is left out.
    """
    listed = summary.get(Key.STEPS_LOST)
    lost = sorted(step for step in listed if type(step) is int) if isinstance(listed, list) else []
    places = ((bisect(lost, before), after) for before, after in pairwise(steps))
    return [lost[at] for at, after in places if at < len(lost) and lost[at] < after]


def depth_of(layer: str) -> tuple[int, str]:
    """To sort layers such as 07_p3.4 by; names without a depth come last."""
    digits = layer.split("_", 1)[0]  # not the text as it is: 100 comes after 11
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 10**6, layer
