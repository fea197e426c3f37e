"""A trained network as an ONNX or TorchScript file, decoding included, and proof that the file agrees.

Both take `images`, (B, 3, H, W) float32 RGB from 0 to 1, letterboxed, and give `boxes`, (B, A, 4) corners in
pixels of the letterboxed image, and `scores`, (B, A, classes) from 0 to 1. The program that runs them still
has to choose boxes: by score, and by non-maximum suppression.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detector import __version__
from detector.data.geometry import letterbox
from detector.data.images import read_image
from detector.errors import UserError
from detector.models.base import DetectionModel
from detector.models.decode import decode
from detector.runtime.ultralytics_import import import_ultralytics

OPSET = 18  # what torch's exporter writes without converting
LARGEST_SIDE = 128 * 32  # pixels; a bound that the exporter wants for free sizes

Run = Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]]  # images -> boxes, scores


class Network(nn.Module):
    """A detector whose raw predictions are decoded: what an exported file holds."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] -> boxes (B, A, 4), corners in pixels, and scores (B, A, classes)."""
        return decode(self.model(images), self.model.strides)


class Difference(NamedTuple):
    """How far a file's outputs are from the network's at most, over all boxes of the images tried."""

    boxes: float  # pixels
    scores: float

    def __str__(self) -> str:
        """For a person."""
        return f"boxes differ by at most {self.boxes:.1g} px, scores by {self.scores:.1g}"


def export_onnx(
    model: DetectionModel,
    names: Sequence[str],
    path: Path,
    *,
    image_size: int,
    batch: int = 1,
    dynamic: bool = False,
    opset: int = OPSET,
) -> Difference:
    """Write an ONNX file and compare what ONNX Runtime makes of it with the network.

    Args:
        model: in evaluation mode, on the CPU.
        names: of its classes, for the metadata.
        path: of the file; it must not be there yet.
        image_size: side of the square, pixels.
        batch: images at a time.
        dynamic: any batch and any height and width that the network takes, instead of these.
        opset: version of ONNX's operators.

    Raises:
        UserError: a package is missing, the file cannot be written, or it does not agree with the network.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  used by torch's exporter
    except ImportError as error:
        raise UserError(f"ONNX needs the package {error.name}: pip install '.[export]'") from error
    network, largest = Network(model), max(model.strides)
    example, shapes = torch.rand(batch, 3, image_size, image_size), None
    if dynamic:
        # Sizes that differ, else the exporter takes them to be one.
        example = torch.rand(2, 3, image_size, image_size + largest)
        free = torch.export.Dim
        height, width = (free(name, min=1, max=LARGEST_SIDE // largest) for name in ("h", "w"))
        shapes = {"images": {0: free("batch"), 2: largest * height, 3: largest * width}}
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["boxes", "scores"],
                dynamic_shapes=shapes,
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:  # whatever a network can hold that ONNX cannot
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"this network cannot be written as ONNX, opset {opset}: {reason}") from error
    assert program is not None
    proto = program.model_proto
    written = {entry.version for entry in proto.opset_import if entry.domain == ""}
    if written != {opset}:
        raise UserError(f"--opset {opset}: not possible for this network; {OPSET} is")
    for output in proto.graph.output:  # instead of an expression of the height and the width
        dimension = output.type.tensor_type.shape.dim[1]
        if dimension.dim_param:
            dimension.dim_param = "anchors"
    facts = metadata(model, names, image_size)
    onnx.helper.set_model_props(
        proto, {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    )
    proto.producer_name, proto.producer_version = "gradient-detector", __version__
    with new_file(path) as temporary:
        onnx.save(proto, temporary)
        onnx.checker.check_model(str(temporary))
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        inputs = check_inputs(image_size, batch)
        if dynamic:
            inputs += [inputs[0][..., :-largest], np.concatenate((inputs[1], inputs[0]))]
        return compare(network, lambda images: session.run(None, {"images": images}), inputs)


def export_torchscript(
    model: DetectionModel, names: Sequence[str], path: Path, *, image_size: int
) -> Difference:
    """Write a TorchScript file, which takes any batch and size, and compare it with the network.

    The metadata is inside under the name `metadata.json` (see `_extra_files` of `torch.jit.load`).

    Raises:
        UserError: the file cannot be written, or it does not agree with the network.
    """
    network = Network(model)
    with _quiet(), torch.no_grad():
        # Not on zeros, and not checked by torch, which would run it twice more: `compare` does.
        traced = torch.jit.trace(network, torch.rand(1, 3, image_size, image_size), check_trace=False)
        with new_file(path) as temporary:
            facts = json.dumps(metadata(model, names, image_size))
            torch.jit.save(traced, str(temporary), _extra_files={"metadata.json": facts})
            loaded = torch.jit.load(str(temporary))
            photo, noise = check_inputs(image_size, 1)
            inputs = [photo, noise, np.concatenate((noise, photo))]

            def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
                return [output.numpy() for output in loaded(torch.from_numpy(images))]

            return compare(network, run, inputs)


def metadata(model: DetectionModel, names: Sequence[str], image_size: int) -> dict[str, Any]:
    """What a program needs to know besides the network; in ONNX every value is JSON text."""
    return {
        "names": list(names),
        "image_size": image_size,
        "strides": list(model.strides),
        "input": "RGB from 0 to 1, scaled to fit a square, centred on grey 114/255",
        "output": "boxes: x1 y1 x2 y2 in pixels of the square; scores: of each class, 0 to 1",
        "nms": True,
        "confidence": 0.25,
        "iou": 0.7,
    }


def check_inputs(size: int, batch: int) -> list[NDArray[np.float32]]:
    """A photograph and noise, (batch, 3, size, size) each."""
    photo = read_image(Path(str(import_ultralytics("utils").ASSETS)) / "bus.jpg")
    square, _ = letterbox(photo, size)
    pixels = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32) / 255
    noise = np.random.default_rng(0).random((batch, 3, size, size), np.float32)
    return [np.repeat(pixels, batch, 0), noise]


@torch.no_grad()
def compare(network: nn.Module, run: Run, inputs: Sequence[NDArray[np.float32]]) -> Difference:
    """The largest differences between a network and a program that should compute the same.

    Raises:
        UserError: they are more than rounding explains, or not finite. Allowed are 0.001 of a score, and of
            a box a ten thousandth of the image's side, or of the farthest corner where that is more.
    """
    apart: list[list[float]] = []
    reach = float(max(inputs[0].shape[2:]))  # of a box's side; rounding grows with it
    for images in inputs:
        truth = [output.numpy() for output in network(torch.from_numpy(images))]
        found = run(images)
        if not all(np.isfinite(output).all() for output in truth):
            raise UserError("the network's outputs are not finite: was its training stopped by a NaN?")
        if [output.shape for output in found] != [output.shape for output in truth]:
            raise UserError("the exported file's outputs have a wrong shape; it was not kept")
        apart.append([float(np.abs(one - other).max()) for one, other in zip(found, truth, strict=True)])
        reach = max(reach, float(np.abs(truth[0]).max()))
    difference = Difference(*np.max(apart, axis=0).tolist())  # NumPy's, which does not lose a NaN
    if not (difference.boxes <= 1e-4 * reach and difference.scores <= 1e-3):  # a NaN fails too
        raise UserError(f"the exported file does not agree with the network: {difference}; it was not kept")
    return difference


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary file that becomes `path` if all goes well; what already exists is never overwritten.

    Raises:
        UserError: `path` is there, or cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    taken = UserError(f"{path}: already exists, and nothing is overwritten; name another file with --out")
    if path.exists():
        raise taken
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; name another with --out") from error
    try:
        yield temporary
        if path.exists():  # made by somebody else in the meantime
            raise taken
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on themselves: whether the file is right is checked, not hoped for."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
