"""`detector export`: the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from detector.errors import UserError
from detector.rundir.finding import checkpoint_at

if TYPE_CHECKING:
    from detector.tools.export.graphs import Difference

# The ending of a file where --out names none, and those that --out may have.
SUFFIXES = {
    "onnx": (".onnx",),
    "torchscript": (".torchscript", ".pt", ".pts", ".ts"),
    "ultralytics": (".ultralytics.pt", ".pt"),
}


def export(
    checkpoint: Path,
    /,
    *,
    format: Literal["onnx", "torchscript", "ultralytics"] = "onnx",
    out: Path | None = None,
    image_size: int | None = None,
    dynamic: bool = False,
    batch: int | None = None,
    opset: int | None = None,
    plugin: tuple[Path, ...] = (),
) -> Path:
    """Write a checkpoint as ONNX, TorchScript or for ultralytics.

    The file is read back, and must agree with the network.

    Args:
        checkpoint: ours, a run's directory, or a .pt of ultralytics.
        format: what the file is for.
        out: a new file; default: beside the checkpoint.
        image_size: pixels; default: as trained.
        dynamic: onnx: any batch, height and width.
        batch: onnx: images at a time; default: 1.
        opset: onnx: version of its operators; default: 18.
        plugin: the Python file of the network's own parts, if it has any; may be repeated.

    Returns:
        The file.

    Raises:
        UserError: an option does not fit, a package is missing, or the file cannot be written or is wrong.
    """
    given = {name: value for name, value in (("batch", batch), ("opset", opset)) if value is not None}
    checkpoint = checkpoint_at(checkpoint)
    out = out or checkpoint.with_name(checkpoint.stem + SUFFIXES[format][0])
    _check(format, out, dynamic, given, image_size)

    from detector.models.build import load_model
    from detector.predictor import check_size
    from detector.registry import load_plugins
    from detector.tools.export.graphs import export_onnx, export_torchscript
    from detector.tools.export.ultralytics_file import export_ultralytics

    load_plugins(plugin)
    loaded = load_model(checkpoint)
    model, names = loaded.model, loaded.names
    size = check_size(image_size or loaded.image_size, model.strides)
    difference: Difference
    if format == "onnx":
        difference = export_onnx(model, names, out, image_size=size, dynamic=dynamic, **given)
    elif format == "torchscript":
        difference = export_torchscript(model, names, out, image_size=size)
    else:
        difference = export_ultralytics(model, names, out, image_size=size)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {format}, {len(names)} classes, {size} px")
    print(f"checked on a photograph and on noise: {difference}")
    return out


def _check(format: str, out: Path, dynamic: bool, given: Mapping[str, int], image_size: int | None) -> None:
    """What can be said before anything heavy is imported."""
    if not out.name.endswith(SUFFIXES[format]):
        raise UserError(f"--out {out}: a file of the format {format} ends in {' or '.join(SUFFIXES[format])}")
    for name, value in {**given, "image-size": image_size}.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be positive")
    if dynamic and "batch" in given:
        raise UserError("--batch: with --dynamic the file takes any number of images; leave one of them out")
    only_onnx = (["dynamic"] if dynamic else []) + list(given)
    if only_onnx and format != "onnx":
        raise UserError(f"--{only_onnx[0]}: only for --format onnx; the others take any batch and size")
    if out.exists():
        raise UserError(f"{out}: already exists, and nothing is overwritten; name another file with --out")
