"""What W&B shows beside the curves: gradient norm against depth and over time, and predictions on images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from detector.loggers.base import PredictionImage, Row
from detector.loggers.curves import log10
from detector.rows import Key, by_layer, layers_in

if TYPE_CHECKING:
    import wandb
    from wandb.plot.custom_chart import CustomChart

_GREY = 114  # the letterbox's
_MOST_BOXES = 100  # the best ones of an image; an untrained detector finds hundreds


def depth_chart(first: Row, now: Row) -> CustomChart | None:
    """Activation-gradient norm against depth, at initialisation and now.

    The y axis is log10 of the norm, because W&B's line series has no logarithmic axis.

    Returns:
        None where `now` holds no finite activation gradient.
    """
    import wandb

    series = {f"step {first.get('step', 0)}": _profile(first), f"step {now.get('step', 0)}": _profile(now)}
    if not _profile(now)[0]:
        return None
    drawn = {name: points for name, points in series.items() if points[0]}  # one series at the first row
    return wandb.plot.line_series(
        xs=[depths for depths, _ in drawn.values()],
        ys=[norms for _, norms in drawn.values()],
        keys=list(drawn),
        title="log10 of the activation gradient against depth",
        xname="depth",
    )


_NORMS = {
    "log10_activation_grad": Key.ACTIVATION_GRAD,
    "log10_weight_grad": Key.WEIGHT_GRAD,
    "log10_update_ratio": Key.UPDATE_RATIO,
}


def layer_map(rows: Sequence[Row]) -> dict[str, wandb.Plotly | wandb.Table]:
    """All layers over all steps: log10 of the activation gradient as a map, and all norms as a table.

    Args:
        rows: recorded ones, oldest first.
    """
    import wandb
    from plotly import graph_objects as go

    layers = layers_in(rows, Key.ACTIVATION_GRAD)
    columns = {name: [_logs(row, kind, layers) for row in rows] for name, kind in _NORMS.items()}
    steps = [int(row[Key.STEP]) for row in rows]
    table = wandb.Table(
        columns=["step", "depth", "layer", *columns],
        data=[
            [step, depth, layer, *(column[at][depth] for column in columns.values())]
            for at, step in enumerate(steps)
            for depth, layer in enumerate(layers)
        ],
    )
    by_layer_first = list(zip(*columns["log10_activation_grad"], strict=True))
    heat = go.Heatmap(x=steps, y=layers, z=by_layer_first, colorscale="Viridis", colorbar_title="log10")
    axes: dict[str, Any] = {"xaxis_title": "step", "yaxis_type": "category"}
    return {
        "layer_map/activation_grad": wandb.Plotly(go.Figure(heat, axes)),
        "layer_map/table": table,
    }


def _logs(row: Row, kind: str, layers: Sequence[str]) -> list[float | None]:
    """log10 of each layer's number; None, a gap, where there is none or it is not finite."""
    found = (log10(row.get(kind + layer, math.nan)) for layer in layers)
    return [value if math.isfinite(value) else None for value in found]


def pictures(images: Sequence[PredictionImage]) -> list[wandb.Image]:
    """Images with two layers of boxes, `predictions` and `ground_truth`, that can be switched in W&B.

    W&B shows a list of images only if all have one size: smaller ones get a grey margin on the right and
    below, which moves no box.
    """
    height = max((image.image.shape[0] for image in images), default=0)
    width = max((image.image.shape[1] for image in images), default=0)
    return [_picture(image, height, width) for image in images]


def _picture(image: PredictionImage, height: int, width: int) -> wandb.Image:
    import numpy as np
    import wandb

    best = np.argsort(-np.asarray(image.scores, dtype=float), kind="stable")[:_MOST_BOXES]
    found = [
        _box(image, image.boxes[i], image.classes[i], float(image.scores[i]))
        for i in best
        if np.isfinite(image.boxes[i]).all()
    ]
    truth = [_box(image, box, kind) for box, kind in zip(image.truth_boxes, image.truth_classes, strict=True)]
    labels = dict(enumerate(image.class_names))
    margins = (0, height - image.image.shape[0]), (0, width - image.image.shape[1]), (0, 0)
    return wandb.Image(
        np.pad(image.image, margins, constant_values=_GREY),
        caption=image.name,
        file_type="jpg",  # as PNG it takes ten times as long, from the cores that train
        boxes={
            "predictions": {"box_data": found, "class_labels": labels},
            "ground_truth": {"box_data": truth, "class_labels": labels},
        },
    )


def _profile(row: Row) -> tuple[list[int], list[float]]:
    """Depths and log10 norms of a row's finite activation gradients."""
    points = [
        (int(layer.split("_", 1)[0]), log10(value))
        for layer, value in by_layer(row, Key.ACTIVATION_GRAD).items()
        if math.isfinite(value)
    ]
    points.sort()
    return [depth for depth, _ in points], [norm for _, norm in points]


def _box(image: PredictionImage, box: Any, kind: Any, score: float | None = None) -> dict[str, Any]:
    left, top, right, bottom = (float(side) for side in box)
    name = image.class_name(kind)
    drawn: dict[str, Any] = {
        "position": {"minX": left, "maxX": right, "minY": top, "maxY": bottom},
        "domain": "pixel",
        "class_id": int(kind),
        "box_caption": name if score is None else f"{name} {score:.2f}",
    }
    return drawn if score is None else drawn | {"scores": {"score": score}}
