"""`detector check`: everything that is wrong or odd with a dataset, before training on it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detector.errors import UserError

if TYPE_CHECKING:
    from detector.config.schema import Config
    from detector.data.dataset import File

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_CLEAN, EXIT_PROBLEMS = 0, 1


def add_check(commands: Commands) -> None:
    """Add the command to `detector`. Imports nothing heavy, for the sake of --help."""
    parser = commands.add_parser(
        "check",
        help="everything that is wrong or odd with a dataset, before training on it",
        description="Read every image and label of a dataset, and report what is wrong. Writes nothing but "
        "the file given to --sheet. Exit code 0: no errors, repairs or warnings; 1: some; 2: unusable.",
    )
    parser.add_argument("data", metavar="DATA.yaml", help="the data YAML, as in data.path")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PX",
        help="the size to train at, for what counts as small or tiny; default: as --config says, else 320",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="read the data as training with this configuration would"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="such as data.repair=false")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="draw images with boxes into a new file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--all", action="store_true", help="list every problem instead of ten of each kind")
    parser.add_argument(
        "--allow-outside", action="store_true", help="as data.allow_outside: lists may name images elsewhere"
    )
    parser.add_argument(
        "--no-near-duplicates", action="store_true", help="do not compare pictures across splits"
    )
    parser.set_defaults(run=run_check)


def run_check(options: argparse.Namespace) -> int:
    """Check as the command line says; return the exit code.

    Raises:
        UserError: the dataset is unusable, or an option is wrong.
    """
    from detector.data.dataset import scan
    from detector.data.near_duplicates import thumbnail
    from detector.data.preflight import inspect
    from detector.data.sources import obtain, options_of
    from detector.tools.check.report import print_json, print_report, print_unusable
    from detector.tools.check.sheet import refuse_existing, write_sheet

    config = _config(options.config, options.overrides)
    image_size = config.data.image_size if options.image_size is None else options.image_size
    if image_size < 32:
        raise UserError(f"--image-size: must be at least 32 pixels, not {image_size}")
    if options.sheet is not None:
        refuse_existing(options.sheet)
    began = time.monotonic()
    try:
        path, root = obtain(options.data)
        sign = None if options.no_near_duplicates else thumbnail
        how = options_of(config.data, config.train.seed)
        how["allow_outside"] |= options.allow_outside
        found = scan(path, root=root, sign=sign, track=_track, **how)
    except UserError as error:
        if options.json:
            print_unusable(options.data, str(error))
        raise
    problems, statistics = inspect(found, image_size)
    if options.json:
        print_json(found, statistics, problems)
    else:
        limit = None if options.all else 10
        print_report(found, statistics, problems, limit, seconds=time.monotonic() - began)
    if options.sheet is not None:
        drawn = write_sheet(found.dataset, options.sheet)
        print(f"{options.sheet}: {drawn} images with their boxes", file=sys.stderr)
    return EXIT_PROBLEMS if any(one.severity != "note" for one in problems) else EXIT_CLEAN


def _config(file: Path | None, overrides: Sequence[str]) -> Config:
    """What says how the data is read. Raises UserError."""
    from detector.config.loading import check, load_config, parse_overrides
    from detector.config.safe_yaml import Value
    from detector.data.sources import CHECK_SIZE

    if file is not None:
        return load_config(file, overrides).config
    return check({"data.image_size": Value(CHECK_SIZE, ""), **parse_overrides(overrides)})


def _track(files: Iterable[File], total: int) -> Iterator[File]:
    """Pass the files on, with a progress bar on stderr if that is a terminal, else after one line."""
    from detector.runtime.progress import progress_bar

    with progress_bar() as bar:
        if bar.disable:
            print(f"reading {total} images and their labels", file=sys.stderr, flush=True)
        yield from bar.track(files, total=total, description="reading")
