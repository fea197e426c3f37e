"""`detector predict`: the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detector.errors import UserError

if TYPE_CHECKING:
    from detector.tools.predict.results import Results

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_SKIPPED = 1  # something could not be read


def add_predict(commands: Commands) -> None:
    """Add the command to `detector`. Imports nothing heavy, for the sake of --help."""
    parser = commands.add_parser(
        "predict",
        help="find objects in images, folders, videos or a camera's picture",
        description="Draw what a trained detector finds. Exit code 1: something could not be read.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="ours, or a .pt of ultralytics")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="an image, a video, a folder, a quoted pattern such as 'photos/**/*.jpg', or a camera's number",
    )
    parser.add_argument(
        "--conf", type=_fraction, default=0.25, metavar="P", help="lowest score; default 0.25"
    )
    parser.add_argument(
        "--iou", type=_fraction, metavar="P", help="overlap above which the better box stays; default 0.7"
    )
    parser.add_argument("--image-size", type=_positive, metavar="N", help="pixels; default: as trained")
    parser.add_argument("--batch", type=_positive, default=8, metavar="N", help="images at a time; default 8")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--frames", type=_positive, metavar="N", help="stop each video or camera after N")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a new folder; default: runs/predict-<name>-<time>"
    )
    parser.add_argument("--save-txt", action="store_true", help="write labels: class cx cy w h score")
    parser.add_argument("--json", action="store_true", help="print one JSON document with every box")
    parser.add_argument("--no-images", action="store_true", help="write no pictures and videos")
    parser.set_defaults(run=run_predict)


def run_predict(options: argparse.Namespace) -> int:
    """Predict as the command line says.

    Returns:
        0; 1 if a file was skipped; 130 or 143 if stopped by a signal, what was done being complete.

    Raises:
        UserError: a source, the checkpoint or an option is wrong, or a result cannot be written.
    """
    from detector.predictor import Predictor
    from detector.rundir import run_name
    from detector.runtime.files import new_folder
    from detector.runtime.signals import StopRequest
    from detector.tools.predict.job import Job
    from detector.tools.predict.results import Results
    from detector.tools.predict.sources import find_sources

    writes = options.save_txt or not options.no_images
    if options.out is not None and not writes:
        raise UserError("--out: with --no-images and without --save-txt there is nothing to write into it")
    sources = find_sources(options.sources)
    chosen = {} if options.iou is None else {"iou": options.iou}
    predictor = Predictor(
        options.checkpoint,
        confidence=options.conf,
        image_size=options.image_size,
        device=options.device,
        precision=options.precision,
        **chosen,
    )
    folder = (
        new_folder(options.out, f"runs/predict-{run_name(options.checkpoint)}", "--out") if writes else None
    )
    results = Results(
        folder,
        predictor.names,
        pictures=not options.no_images,
        labels=options.save_txt,
        document=sys.stdout if options.json else None,
        facts={
            "checkpoint": str(options.checkpoint),
            "names": predictor.names,
            "image_size": predictor.image_size,
            "confidence": predictor.confidence,
            "iou": predictor.iou,
        },
    )
    with StopRequest() as stop:
        job = Job(predictor, results, options.batch, options.frames, stop)
        try:
            job.run(sources)
        finally:
            timing = {"milliseconds_an_image": job.milliseconds()}
            results.finish({"interrupted": job.interrupted, **timing})
    print(_report(results, job.milliseconds(), folder), file=sys.stderr if options.json else sys.stdout)
    if stop():
        print("interrupted: what is listed above is complete", file=sys.stderr)
    return stop.exit_code or (EXIT_SKIPPED if results.skipped else 0)


def _report(results: Results, milliseconds: float | None, folder: Path | None) -> str:
    """The last lines that a person reads."""
    time_each = "" if milliseconds is None else f", {milliseconds:.1f} ms each from pixels to boxes"
    skipped = f", {len(results.skipped)} skipped" if results.skipped else ""
    found = ", ".join(f"{count} {name}" for name, count in results.counts.most_common()) or "nothing"
    images = f"{results.images} image{'' if results.images == 1 else 's'}"
    lines = [f"{images}{skipped}{time_each}", f"found: {found}"]
    return "\n".join([*lines, *([] if folder is None else [f"results: {folder}"])])


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
