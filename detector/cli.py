"""`detector <command>`: everything but training, which is `train.py`'s."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detector import __version__
from detector.errors import UserError
from detector.report.command import add_compare


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, or 2 for a mistake the user can fix."""
    parser = argparse.ArgumentParser(prog="detector", description="Tools around train.py.")
    parser.add_argument("--version", action="version", version=f"detector {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    info = commands.add_parser("info", help="a configuration's network: layers, parameters, FLOPs")
    info.add_argument("--config", type=Path, default=Path("configs/coco8.yaml"), metavar="FILE")
    info.add_argument("overrides", nargs="*", metavar="section.key=value")
    info.set_defaults(run=show_info)

    add_compare(commands)

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def show_info(options: argparse.Namespace) -> None:
    """Print the trunk's layers under the names that the curves carry, then the size of the whole."""
    from detector.data.data_yaml import read_data_yaml
    from detector.data.sources import locate
    from detector.loading import load_config
    from detector.nn.describe import measure
    from detector.nn.detector import build_detector

    loaded = load_config(options.config, options.overrides)
    names = read_data_yaml(locate(loaded.config.data.path)).names
    model = build_detector(loaded.config.model, len(names))
    for name, module in model.trunk_points().items():
        parameters = sum(p.numel() for p in module.parameters())
        print(f"{name:12s} {type(module).__name__:6s} {parameters:>9,} parameters")
    print(f"{loaded.name}: {measure(model, loaded.config.data.image_size)}, {len(names)} classes")
