"""`detector <command>`: everything but training, which is `train.py`'s."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detector import __version__
from detector.errors import UserError, for_terminal
from detector.runtime import streams
from detector.tools.check.command import add_check
from detector.tools.compare.command import add_compare
from detector.tools.convert.command import add_convert
from detector.tools.export.command import add_export
from detector.tools.predict.command import add_predict
from detector.tools.replay.command import add_replay
from detector.tools.reproduce.command import add_reproduce

if TYPE_CHECKING:
    from detector.tools.compare.command import Commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, 2 for a mistake the user can fix, or the command's own."""
    streams.accept_any_text()
    parser = argparse.ArgumentParser(prog="detector", description="Tools around train.py.")
    parser.add_argument("--version", action="version", version=f"detector {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    info = commands.add_parser("info", help="a configuration's network: layers, parameters, FLOPs")
    info.add_argument("--config", type=Path, default=Path("configs/coco8.yaml"), metavar="FILE")
    info.add_argument("overrides", nargs="*", metavar="section.key=value")
    info.set_defaults(run=show_info)

    theory = commands.add_parser("theory", help="backward factors: published, predicted and measured")
    theory.add_argument(
        "--trunk",
        nargs="?",
        const="coco8",
        choices=("coco8", "shapes", "random"),
        help="also measure the detector's trunk on these images (coco8 if none are named)",
    )
    theory.set_defaults(run=show_theory)

    ablate = commands.add_parser("ablate", help="run a suite of ablations over several seeds")
    ablate.add_argument("suite", type=Path, metavar="SUITE", help="such as ablations/suites/factorial.yaml")
    ablate.add_argument("--seeds", type=int, metavar="N", help="seeds a cell; default: as the suite says")
    ablate.add_argument(
        "--jobs", type=int, metavar="N", help="runs at a time; default: one a core, at most 4"
    )
    ablate.add_argument("--out", type=Path, metavar="DIR", help="default: runs/<the suite's name>")
    ablate.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster: auto, HOST:PORT or ray://…")
    ablate.add_argument("--dry-run", action="store_true", help="print the command of each run, and run none")
    ablate.add_argument("overrides", nargs="*", metavar="section.key=value", help="for all cells")
    ablate.set_defaults(run=run_suite)

    dashboard = commands.add_parser("dashboard", help="make the W&B workspace that shows a project's runs")
    dashboard.add_argument("--entity", required=True, metavar="E", help="the W&B user or team")
    dashboard.add_argument("--project", default="detector-gradients", metavar="P")
    dashboard.add_argument("--config", type=Path, default=Path("configs/coco8.yaml"), metavar="FILE")
    dashboard.add_argument("--explicit", action="store_true", help="list the layers instead of a pattern")
    dashboard.add_argument("--dry-run", action="store_true", help="print it as JSON; needs no network")
    dashboard.add_argument("overrides", nargs="*", metavar="section.key=value")
    dashboard.set_defaults(run=make_dashboard)

    add_compare(commands)
    add_check(commands)
    add_val(commands)
    add_convert(commands)
    add_predict(commands)
    add_export(commands)
    add_replay(commands)
    add_reproduce(commands)

    # argparse takes positional arguments only in one go: those after a later option are left over.
    options, rest = parser.parse_known_args(arguments)
    if any(argument.startswith("-") for argument in rest) or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    try:
        return options.run(options) or 0
    except UserError as error:
        print(f"error: {for_terminal(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough; nothing may be flushed to it at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def add_val(commands: Commands) -> None:
    """Add `detector val`."""
    val = commands.add_parser(
        "val",
        help="mAP and its reasons: a checkpoint on a split",
        description="Evaluate a checkpoint, of this project or of ultralytics, by COCO's official metrics.",
    )
    val.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="best.pt, or a run's directory")
    val.add_argument("--data", metavar="DATA.yaml", help="default: what the checkpoint was trained on")
    val.add_argument("--split", choices=("train", "val", "test"), default="val")
    val.add_argument("--image-size", type=int, metavar="N", help="pixels; default: as it was trained")
    val.add_argument("--batch", type=int, default=16, metavar="N", help="images a forward pass (16)")
    val.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    val.add_argument(
        "--precision",
        choices=("fp32", "bf16", "auto"),
        default="fp32",
        help="auto: bf16 where the hardware has it, else fp32 (fp32)",
    )
    val.add_argument(
        "--fast", action="store_true", help="leave padding out and fold norms; scores differ a little"
    )
    val.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        help="a bad label line or image: stop, or leave it out; default: as it was trained, else stop",
    )
    val.add_argument("--allow-outside", action="store_true", help="lists may name images elsewhere")
    val.add_argument("--out", type=Path, metavar="DIR", help="a new folder; default: runs/val-<run>-<time>")
    val.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    val.add_argument("--wandb", action="store_true", help="record it on W&B; offline without a key")
    val.set_defaults(run=run_val)


def run_val(options: argparse.Namespace) -> None:
    """Evaluate a checkpoint."""
    from detector.tools.val.command import val

    val(options)


def run_suite(options: argparse.Namespace) -> int:
    """Run a suite of ablations; see `detector.tools.suites`."""
    from detector.tools.suites.command import ablate

    return ablate(options)


def make_dashboard(options: argparse.Namespace) -> None:
    """Make the W&B workspace, or print it."""
    from detector.tools.dashboard.command import dashboard

    dashboard(options)


def show_info(options: argparse.Namespace) -> None:
    """Print the trunk's layers under the names that the curves carry, then the size of the whole."""
    from detector.config.loading import load_config
    from detector.data.data_yaml import read_data_yaml
    from detector.data.sources import locate
    from detector.models.build import build_model
    from detector.models.size import measure

    loaded = load_config(options.config, options.overrides)
    names = read_data_yaml(locate(loaded.config.data.path)).names
    model = build_model(loaded.config.model, names).model
    for name, module in model.backbone_layers().items():
        parameters = sum(p.numel() for p in module.parameters())
        print(f"{name:12s} {type(module).__name__:6s} {parameters:>9,} parameters")
    print(f"{loaded.name}: {measure(model, loaded.config.data.image_size)}, {len(names)} classes")


def show_theory(options: argparse.Namespace) -> None:
    """Print what mean-field theory predicts beside what networks do."""
    from detector.tools.theory.command import show_theory

    show_theory(options.trunk)
