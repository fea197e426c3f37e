"""`detector check`: everything that is wrong or odd with a dataset, before training on it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from detector.errors import UserError
from detector.runtime.progress import track_reading

if TYPE_CHECKING:
    from detector.config.schema import Config
    from detector.data.dataset import Scan
    from detector.data.problems import Problem
    from detector.data.statistics import Statistics

EXIT_CLEAN, EXIT_PROBLEMS = 0, 1


class Checked(NamedTuple):
    """What was found in a dataset."""

    found: Scan
    statistics: Statistics
    problems: Sequence[Problem]

    @property
    def exit_code(self) -> int:
        """1 if there is an error or a warning, else 0."""
        return EXIT_PROBLEMS if any(one.severity != "note" for one in self.problems) else EXIT_CLEAN


def check(
    data: str,
    /,
    *overrides: str,
    image_size: int | None = None,
    config: Path | None = None,
    sheet: Path | None = None,
    json: bool = False,
    all: bool = False,
    allow_outside: bool = False,
    no_near_duplicates: bool = False,
) -> Checked:
    """Find what is wrong or odd with a dataset before training on it.

    Reads every image and label, whatever was read before; writes nothing but the file given to --sheet, and
    what training then need not read again into the cache folder.
    Exit code 0: no errors, repairs or warnings; 1: some; 2: unusable.

    Args:
        data: the data YAML, as in data.path.
        overrides: section.key=value, such as data.repair=false.
        image_size: the size to train at, for what counts as small; default: as --config says, else 320.
        config: read the data as training with this configuration would: a file, or a name such as shapes.
        sheet: draw images with boxes into a new file, such as sheet.png.
        json: print one JSON document instead of tables.
        all: list every problem instead of ten of each kind.
        allow_outside: as data.allow_outside: lists may name images elsewhere.
        no_near_duplicates: do not compare pictures across splits.

    Raises:
        UserError: the dataset is unusable, or an option is wrong.
    """
    from detector.data.dataset import scan
    from detector.data.near_duplicates import thumbnail
    from detector.data.preflight import inspect
    from detector.data.sources import obtain, options_of
    from detector.tools.check.report import print_json, print_report, print_unusable
    from detector.tools.check.sheet import refuse_existing, write_sheet

    how = _config(config, overrides)
    size = how.data.image_size if image_size is None else image_size
    if size < 32:
        raise UserError(f"--image-size: must be at least 32 pixels, not {size}")
    if sheet is not None:
        refuse_existing(sheet)
    began = time.monotonic()
    try:
        path, root = obtain(data)
        sign = None if no_near_duplicates else thumbnail
        reading = options_of(how.data, how.train.seed)
        reading["allow_outside"] |= allow_outside
        found = scan(path, root=root, sign=sign, afresh=True, track=track_reading, **reading)
    except UserError as error:
        if json:
            print_unusable(data, str(error))
        raise
    problems, statistics = inspect(found, size)
    if json:
        print_json(found, statistics, problems)
    else:
        limit = None if all else 10
        print_report(found, statistics, problems, limit, seconds=time.monotonic() - began)
    if sheet is not None:
        drawn = write_sheet(found.dataset, sheet)
        print(f"{sheet}: {drawn} images with their boxes", file=sys.stderr)
    return Checked(found, statistics, problems)


def _config(file: Path | None, overrides: Sequence[str]) -> Config:
    """What says how the data is read. Raises UserError."""
    from detector.config.loading import check, load_config, parse_overrides
    from detector.config.safe_yaml import Value
    from detector.data.sources import CHECK_SIZE

    if file is not None:
        return load_config(file, overrides).config
    return check({"data.image_size": Value(CHECK_SIZE, ""), **parse_overrides(overrides)})
