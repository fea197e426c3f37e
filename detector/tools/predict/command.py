"""`detector predict`: the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from detector.errors import UserError

if TYPE_CHECKING:
    from detector.tools.predict.results import Results

EXIT_SKIPPED = 1  # something could not be read


def predict(
    checkpoint: Path,
    /,
    *sources: str,
    conf: float = 0.25,
    iou: float | None = None,
    image_size: int | None = None,
    batch: int = 8,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    frames: int | None = None,
    out: Path | None = None,
    save_txt: bool = False,
    json: bool = False,
    no_images: bool = False,
    plugin: tuple[Path, ...] = (),
) -> Results:
    """Find objects in images, folders, videos or a camera's picture.

    They are drawn into copies of the pictures, in a new folder.
    Exit code 1: something could not be read.

    Args:
        checkpoint: ours, a run's directory, or a .pt of ultralytics.
        sources: images, videos, folders, quoted patterns such as 'photos/**/*.jpg', or a camera's number.
        conf: lowest score.
        iou: overlap above which the better box stays; default: 0.7.
        image_size: pixels; default: as trained.
        batch: images at a time.
        device: auto, cpu, cuda or cuda:N.
        precision: of the network.
        frames: stop each video or camera after so many.
        out: a new folder; default: runs/predict-<name>-<time>.
        save_txt: write labels: class cx cy w h score.
        json: print one JSON document with every box.
        no_images: write no pictures and videos.
        plugin: the Python file of the network's own parts, if it has any; may be repeated.

    Returns:
        What was counted, and where it is. Its exit code is 1 if a file was skipped; 130 or 143 if it was
        stopped by a signal, what was done being complete.

    Raises:
        UserError: a source, the checkpoint or an option is wrong, or a result cannot be written.
    """
    for name, fraction in (("conf", conf), ("iou", iou)):
        if fraction is not None and not 0 <= fraction <= 1:
            raise UserError(f"--{name} {fraction:g}: is not between 0 and 1")
    for name, count in (("image-size", image_size), ("batch", batch), ("frames", frames)):
        if count is not None and count < 1:
            raise UserError(f"--{name} {count}: is not positive")
    if not sources:
        raise UserError("predict on what? Name an image, a folder, a video or a camera's number")
    from detector.predictor import Predictor
    from detector.registry import load_plugins
    from detector.rundir.finding import checkpoint_at, run_name
    from detector.runtime.files import new_folder
    from detector.runtime.signals import StopRequest
    from detector.tools.predict.job import Job
    from detector.tools.predict.results import Results
    from detector.tools.predict.sources import find_sources

    writes = save_txt or not no_images
    if out is not None and not writes:
        raise UserError("--out: with --no-images and without --save-txt there is nothing to write into it")
    load_plugins(plugin)
    checkpoint = checkpoint_at(checkpoint)
    found = find_sources(sources)
    chosen = {} if iou is None else {"iou": iou}
    predictor = Predictor(
        checkpoint,
        confidence=conf,
        image_size=image_size,
        device=device,
        precision=precision,
        **chosen,
    )
    folder = new_folder(out, f"runs/predict-{run_name(checkpoint)}", "--out") if writes else None
    results = Results(
        folder,
        predictor.names,
        pictures=not no_images,
        labels=save_txt,
        document=sys.stdout if json else None,
        facts={
            "checkpoint": str(checkpoint),
            "names": predictor.names,
            "image_size": predictor.image_size,
            "confidence": predictor.confidence,
            "iou": predictor.iou,
        },
    )
    with StopRequest() as stop:
        job = Job(predictor, results, batch, frames, stop)
        try:
            job.run(found)
        finally:
            timing = {"milliseconds_an_image": job.milliseconds()}
            results.finish({"interrupted": job.interrupted, **timing})
    print(_report(results, job.milliseconds(), folder, conf), file=sys.stderr if json else sys.stdout)
    if stop():
        print("interrupted: what is listed above is complete", file=sys.stderr)
    results.exit_code = stop.exit_code or (EXIT_SKIPPED if results.skipped else 0)
    return results


def _report(results: Results, milliseconds: float | None, folder: Path | None, conf: float) -> str:
    """The last lines that a person reads."""
    time_each = "" if milliseconds is None else f", {milliseconds:.1f} ms each from pixels to boxes"
    skipped = f", {len(results.skipped)} skipped" if results.skipped else ""
    found = ", ".join(f"{count} {name}" for name, count in results.counts.most_common())
    found = found or f"nothing with a score of {conf:g} or more; --conf sets it"
    images = f"{results.images} image{'' if results.images == 1 else 's'}"
    lines = [f"{images}{skipped}{time_each}", f"found: {found}"]
    return "\n".join([*lines, *([] if folder is None else [f"results: {folder}"])])
