"""Two short trainings by ultralytics, without and with `attach`: FOLDER DATA.yaml.

In a process of its own, since under pytest ultralytics leaves its W&B and TensorBoard out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torch import Tensor
from ultralytics import YOLO, settings

from detector.integrations.ultralytics import attach

ARGUMENTS: dict[str, Any] = {
    "epochs": 3, "imgsz": 64, "batch": 2, "nbs": 4, "seed": 1, "workers": 0, "device": "cpu", "plots": False,
    "verbose": False, "pretrained": False,
}  # fmt: skip


def measure_first_step(found: dict[str, float]) -> Any:
    """A callback that measures the first batch's gradients by hooks of its own, each at the tensor itself."""

    def on_train_batch_start(trainer: Any) -> None:
        if found:
            return
        found["begun"] = 1.0
        for at, layer in enumerate(trainer.model.model[:11]):

            def forward_hook(_module: Any, _inputs: Any, out: Tensor, at: int = at) -> None:
                if f"activation/{at}" not in found and out.requires_grad:
                    out.register_hook(
                        lambda grad: (
                            found.setdefault(f"activation/{at}", float(grad.double().norm())) and None
                        )
                    )

            layer.register_forward_hook(forward_hook)
        weight = trainer.model.model[0].conv.weight
        weight.register_post_accumulate_grad_hook(
            lambda p: found.setdefault("weight/0", float(p.grad.double().norm())) and None
        )

    return on_train_batch_start


def main(folder: Path, data: str) -> None:
    found: dict[str, float] = {}
    for name in ("plain", "attached"):
        settings.update({"wandb": name == "attached", "tensorboard": name == "attached"})
        model = YOLO("yolo26n.yaml")
        if name == "attached":
            attach(model)
        else:
            model.add_callback("on_train_batch_start", measure_first_step(found))
        model.train(data=data, project=str(folder), name=name, **ARGUMENTS)
    (folder / "by_hand.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
