"""A network of ultralytics' architecture, trained here, as a file that `ultralytics.YOLO()` opens.

Their format is a pickled module. It is written here; it is read only by the loader that makes nothing but
known layers of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from pathlib import Path

import torch

from detector.errors import UserError
from detector.models.base import DetectionModel
from detector.models.build import load_model
from detector.models.yolo import YoloModel
from detector.runtime.ultralytics_import import import_ultralytics
from detector.tools.export.graphs import Difference, Network, check_inputs, compare, new_file


def export_ultralytics(
    model: DetectionModel, names: Sequence[str], path: Path, *, image_size: int
) -> Difference:
    """Write a `.pt` of ultralytics, read it back, and compare it with the network.

    Raises:
        UserError: the network is not one of theirs, or the file cannot be written.
    """
    if not isinstance(model, YoloModel):
        raise UserError(
            "--format ultralytics: this is the compact detector, whose layers ultralytics does not know; "
            "use --format onnx"
        )
    if model.stripped:
        raise UserError(
            "--format ultralytics: this network was stripped, which ultralytics' files do not describe; "
            "use --format onnx"
        )
    net = deepcopy(model.net).float().eval()
    net.requires_grad_(True)  # what was frozen here need not be frozen there
    net.names, net.task = dict(enumerate(names)), "detect"  # type: ignore[assignment]
    net.model[-1].training = False  # type: ignore[index, union-attr]
    checkpoint = {
        "epoch": -1,
        "model": net,
        "train_args": {"task": "detect", "imgsz": image_size},
        "date": datetime.now().astimezone().isoformat(),
        "version": import_ultralytics("utils").__version__,
    }
    with new_file(path) as temporary:
        torch.save(checkpoint, temporary)
        again = Network(load_model(temporary).model)
        return compare(
            Network(model),
            lambda images: [output.numpy() for output in again(torch.from_numpy(images))],
            check_inputs(image_size, 1),
        )
