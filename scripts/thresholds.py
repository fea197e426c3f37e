"""Calibrate the verdict's thresholds at initialisation, on depths and image sizes that no table reports.

    python -m scripts.thresholds        # about three core-minutes; writes docs/thresholds.json

What an untrained trunk should do is known beforehand, from mean-field theory: see `CELLS`. Each threshold
lies halfway between the two groups that it separates. So it rests on no trained run, and on none of the
depths and sizes of the documentation (21, 41 and 81 convolutions; 96, 192 and 256 px).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detector.config.schema import Config, ModelConfig
from detector.gradients.indices import SHALLOW, decades_per_layer
from detector.rows import Key, by_layer
from detector.runtime.json_numbers import to_json

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "thresholds.json"
SEEDS = 0, 1
# Blocks in each stage, and pixels: 15, 31 and 61 trunk convolutions. The first are too few to calibrate on:
# there the two groups overlap, which is why the verdict has `SHALLOW`.
TRUNKS = (((1, 2, 1, 1), 224), ((2, 7, 3, 1), 160), ((3, 16, 6, 3), 128))


class Cell(NamedTuple):
    """A trunk, and what is expected of it."""

    model: dict[str, Any]
    # passes: a layer's factor is 1, or approaches 1 with depth, as where residual branches shrink behind
    # batch norm (De & Smith 2020). explodes, vanishes: it is above or below 1 by as much in every layer (Yang
    # et al. 2019; Schoenholz et al. 2017).
    gradient: str = "passes"
    # passes: the images stay apart and the activations of a size. dies: each layer shrinks them (near 0 SiLU
    # has half the slope that He's gain reckons with). collapses: the sigmoids' mean drowns them.
    signal: str = "passes"


PLAIN = {"shortcut": "none", "norm": "none"}
CELLS = {
    "baseline": Cell({}),
    "relu": Cell({"act": "relu"}),
    "leaky_relu": Cell({"act": "leaky_relu"}),
    "tanh": Cell({"act": "tanh"}),
    "sigmoid": Cell({"act": "sigmoid"}),
    "default_init": Cell({"init": "default"}),
    "plain_relu": Cell({**PLAIN, "act": "relu"}),
    "no_residual": Cell({"shortcut": "none"}, gradient="explodes"),
    "no_residual_relu": Cell({"shortcut": "none", "act": "relu"}, gradient="explodes"),
    "plain_silu": Cell(PLAIN, gradient="vanishes", signal="dies"),
    "plain_silu_xavier": Cell({**PLAIN, "init": "xavier"}, gradient="vanishes", signal="dies"),
    "plain_sigmoid": Cell({**PLAIN, "act": "sigmoid"}, gradient="vanishes", signal="collapses"),
    "no_batchnorm_sigmoid": Cell({"norm": "none", "act": "sigmoid"}, signal="collapses"),
}


def measure(cell: str, depths: Sequence[int], pixels: int, seed: int) -> dict[str, Any]:
    """One forward and backward pass of an untrained detector on COCO8's four training images."""
    from detector.config.schema import TrainConfig
    from detector.data.loader import Loader
    from detector.data.sources import load_dataset
    from detector.gradients.recorder import GradientRecorder
    from detector.models.detector import build_detector
    from detector.models.loss import DetectionLoss
    from detector.runtime.random_state import seed_everything

    model = ModelConfig.model_validate({"depths": list(depths), **CELLS[cell].model})
    config = Config.model_validate({"model": model, "data": {"image_size": pixels}})
    dataset = load_dataset(str(ROOT / "datasets" / "coco8.yaml"))
    batch = next(iter(Loader(dataset.splits["train"], config.data).train_batches(batch=4, seed=seed)))
    seed_everything(seed)
    detector = build_detector(model, len(dataset.names)).train()
    recorder = GradientRecorder(detector.backbone_layers(), levels=detector.level_ends())
    with recorder:
        preds = detector(batch.images.float() / 255)
        DetectionLoss(detector, TrainConfig())(preds, batch.targets()).total.backward()
    record = recorder.measure()
    layers = len(by_layer(record, Key.ACTIVATION_GRAD))
    sizes = [value for key, value in record.items() if key.startswith(Key.RMS)]
    measured = {
        "vanishing_index": record[Key.VANISHING_INDEX],
        "decades_per_layer": decades_per_layer(record[Key.VANISHING_INDEX], layers),
        "input_dependence": record[Key.INPUT_DEPENDENCE],
        "smallest_rms": min(sizes),
    }
    trunk = {"convolutions": 5 + 2 * sum(depths), "layers": layers, "pixels": pixels}
    return {"cell": cell, **trunk, "seed": seed, **{k: float(f"{v:.4g}") for k, v in measured.items()}}


def calibrate(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The thresholds: halfway between the groups, for sizes on a logarithmic scale, to one or two digits."""
    deep = [row for row in rows if row["layers"] >= SHALLOW]

    def values(key: str, **expected: str) -> list[float]:
        kinds = [(row, CELLS[row["cell"]]) for row in deep]
        return [row[key] for row, cell in kinds if all(getattr(cell, k) == v for k, v in expected.items())]

    rate, dependence, rms = "decades_per_layer", "input_dependence", "smallest_rms"
    apart = values(dependence, signal="passes"), values(dependence, signal="collapses")
    sizes = values(rms, signal="passes"), values(rms, signal="dies")
    passes = values(rate, gradient="passes")
    return {
        "vanishing_rate": round((min(passes) + max(values(rate, gradient="vanishes"))) / 2, 2),
        "exploding_rate": round((max(passes) + min(values(rate, gradient="explodes"))) / 2, 2),
        "collapsed": float(f"{math.sqrt(min(apart[0]) * max(apart[1])):.1g}"),
        "dead": float(f"{math.sqrt(min(sizes[0]) * max(sizes[1])):.1g}"),
    }


def main() -> None:
    """Measure every cell, and write."""
    rows = [
        measure(cell, depths, pixels, seed) for depths, pixels in TRUNKS for cell in CELLS for seed in SEEDS
    ]
    lines = ",\n".join(map(to_json, rows))
    OUT.write_text(
        f'{{"thresholds": {to_json(calibrate(rows))},\n"rows": [\n{lines}\n]}}\n', encoding="utf-8"
    )
    print(f"{OUT.relative_to(ROOT)}: {calibrate(rows)}")


if __name__ == "__main__":
    main()
