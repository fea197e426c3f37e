"""`detector export`: the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from detector.errors import UserError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

# The ending of a file where --out names none, and those that --out may have.
SUFFIXES = {
    "onnx": (".onnx",),
    "torchscript": (".torchscript", ".pt", ".pts", ".ts"),
    "ultralytics": (".ultralytics.pt", ".pt"),
}


def add_export(commands: Commands) -> None:
    """Add the command to `detector`. Imports nothing heavy, for the sake of --help."""
    parser = commands.add_parser(
        "export",
        help="a checkpoint as ONNX, TorchScript, or a file for ultralytics",
        description="Write a trained detector for other programs, and check that the file agrees with it.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="ours, or a .pt of ultralytics")
    parser.add_argument("--format", choices=tuple(SUFFIXES), default="onnx", help="default: onnx")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a new file; default: beside the checkpoint")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels; default: as trained")
    parser.add_argument("--dynamic", action="store_true", help="onnx: any batch, height and width")
    parser.add_argument("--batch", type=int, metavar="N", help="onnx: images at a time; default 1")
    parser.add_argument("--opset", type=int, metavar="N", help="onnx: version of its operators; default 18")
    parser.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> None:
    """Export as the command line says.

    Raises:
        UserError: an option does not fit, a package is missing, or the file cannot be written or is wrong.
    """
    kind = options.format
    out = options.out or options.checkpoint.with_name(options.checkpoint.stem + SUFFIXES[kind][0])
    _check(options, out)

    from detector.models.build import load_model
    from detector.predictor import check_size
    from detector.tools.export.graphs import Difference, export_onnx, export_torchscript
    from detector.tools.export.ultralytics_file import export_ultralytics

    loaded = load_model(options.checkpoint)
    model, names = loaded.model, loaded.names
    size = check_size(options.image_size or loaded.image_size, model.strides)
    difference: Difference
    if kind == "onnx":
        given = {key: value for key in ("batch", "opset") if (value := getattr(options, key)) is not None}
        difference = export_onnx(model, names, out, image_size=size, dynamic=options.dynamic, **given)
    elif kind == "torchscript":
        difference = export_torchscript(model, names, out, image_size=size)
    else:
        difference = export_ultralytics(model, names, out, image_size=size)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {kind}, {len(names)} classes, {size} px")
    print(f"checked on a photograph and on noise: {difference}")


def _check(options: argparse.Namespace, out: Path) -> None:
    """What can be said before anything heavy is imported."""
    if not out.name.endswith(SUFFIXES[options.format]):
        endings = " or ".join(SUFFIXES[options.format])
        raise UserError(f"--out {out}: a file of the format {options.format} ends in {endings}")
    for name, at_least in (("batch", 1), ("opset", 1), ("image_size", 1)):
        value = getattr(options, name)
        if value is not None and value < at_least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be positive")
    if options.dynamic and options.batch is not None:
        raise UserError("--batch: with --dynamic the file takes any number of images; leave one of them out")
    for name in ("dynamic", "batch", "opset"):
        if options.format != "onnx" and getattr(options, name):
            raise UserError(f"--{name}: only for --format onnx; the others take any batch and size")
    if out.exists():
        raise UserError(f"{out}: is there already, and nothing is overwritten; name another file with --out")
