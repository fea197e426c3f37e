"""A suite file: what to vary on top of one base configuration, and over how many seeds.

    base: ../../configs/coco8.yaml        # relative to the suite, as in every configuration
    settings:                             # what all cells share
      train: {steps: 100}
    seeds: 3                              # each cell runs with seeds 0, 1, 2: cells are compared in pairs
    cells:
      baseline: {}                                 # nothing but the settings
      no_residual: ../no_residual.yaml             # what an ablation file changes in its own base …
      tanh_deep: {model: {act: tanh, depths: …}}   # … or the changes themselves

The later wins: base, settings, cell, and `section.key=value` from the command line. A cell is run by
`train.py --config BASE section.key=value …`, so whatever a suite does can be repeated by hand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.config import safe_yaml
from detector.config.loading import (
    Layer,
    as_layer,
    check,
    find_file,
    merge,
    parse_overrides,
    read_chain,
)
from detector.config.safe_yaml import Value, written
from detector.config.schema import Config
from detector.errors import UserError, display_path, shorten
from detector.jobs.cell import Cell, changes_of

KEYS = ("base", "settings", "seeds", "cells")
MOST_SEEDS = 1000
MOST_RUNS = 10_000

_OWNED = {  # a suite decides these for each cell, so nobody else may
    "train.seed": "a suite runs every cell with the same seeds: use `seeds:`, or --seeds",
    "run.dir": "a suite gives every cell its directory: use --out",
    "run.name": "a cell is named by its key under `cells:`",
    "train.auto_batch": "a suite's cells share one batch: write train.batch",
    "data.fallback": "a suite never changes its data on the way: it stops where they cannot be had",
}


@dataclass(frozen=True)
class Suite:
    """A suite file, read and checked."""

    name: str  # the file's stem
    base: Path
    settings: Layer
    cells: dict[str, Layer]
    seeds: int


def load_suite(path: Path) -> Suite:
    """Read a suite file, or the project's by its name. Raises UserError that names the file, line and key."""
    path = find_file(path, ("ablations/suites",))
    source = display_path(path)
    document = safe_yaml.read(path, source)
    content = document.value
    if not isinstance(content, dict):
        raise UserError(f"{document.where}: a suite has the keys {', '.join(KEYS)}")
    for key, value in content.items():
        if key not in KEYS:
            raise UserError(f"{value.where}: {shorten(key)}: unknown key; a suite has {', '.join(KEYS)}")
    for key in ("base", "cells"):
        if key not in content:
            raise UserError(f"{source}: a suite needs the key {key}")
    base = content["base"]
    if not isinstance(base.value, str):
        raise UserError(f"{base.where}: base: must be the name of a file, not {base}")
    settings = _inline(content["settings"]) if "settings" in content else {}
    seeds = content.get("seeds", Value(1, source))
    if type(seeds.value) is not int or not 1 <= seeds.value <= MOST_SEEDS:
        raise UserError(f"{seeds.where}: seeds: must be how many, 1 to {MOST_SEEDS}, not {seeds}")
    cells = content["cells"]
    if not isinstance(cells.value, dict) or not cells.value:
        raise UserError(f"{cells.where}: cells: must be a mapping of names to changes, not {cells}")
    return Suite(
        name=path.stem,
        base=_beside(path, base),
        settings=settings,
        cells={_cell_name(name, delta): _delta(path, delta) for name, delta in cells.value.items()},
        seeds=seeds.value,
    )


def expand(suite: Suite, seeds: int | None = None, overrides: Sequence[str] = ()) -> list[Cell]:
    """Every run of the suite, checked: all cells with seed 0, then all with seed 1, and so on.

    That order makes pairs: a suite that is stopped early has run whole rounds.

    Raises:
        UserError: a value is wrong, or two cells are the same experiment.
    """
    if seeds is not None and not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"--seeds: must be how many, 1 to {MOST_SEEDS}, not {seeds}")
    if len(suite.cells) * (suite.seeds if seeds is None else seeds) > MOST_RUNS:
        raise UserError(f"{suite.name}: more than {MOST_RUNS} runs; take fewer cells or seeds")
    command_line = parse_overrides(overrides)
    _refuse_owned(command_line)
    base = merge(layer for _, layer in read_chain(suite.base))
    base = {key: value for key, value in base.items() if not key.startswith("run.")}

    cells: list[Cell] = []
    alike: dict[str, str] = {}
    for name, delta in suite.cells.items():
        changes = merge([suite.settings, delta, command_line])
        config = check(merge([base, changes]))
        tags = [*(tag for tag in config.tracking.tags if tag != suite.name), suite.name]
        decided = {"run.name": name, "data.fallback": "none", "tracking.tags": tags}
        changes |= {key: Value(value, suite.name) for key, value in decided.items()}
        config = check(merge([base, changes]))
        same = config.model_copy(update={"run": Config().run}).model_dump_json()
        if same in alike:
            raise UserError(f"{suite.name}: {name} and {alike[same]} are the same experiment: leave one out")
        alike[same] = name
        for seed in range(suite.seeds if seeds is None else seeds):
            paired = changes | {"train.seed": Value(seed, suite.name)}
            typed = tuple(f"{key}={written(value.value)}" for key, value in paired.items())
            cells.append(Cell(name, seed, suite.base, typed, check(merge([base, paired]))))
    return sorted(cells, key=lambda cell: cell.seed)  # stable: the file's order within a seed


def _delta(suite: Path, delta: Value) -> Layer:
    """What a cell changes: given in place, or by an ablation file, whose own root is left out."""
    if not isinstance(delta.value, str):
        return _inline(delta)
    layer = changes_of(_beside(suite, delta))
    if layer is None:
        raise UserError(f"{delta.where}: {delta.value} has no `base:`: it is a whole experiment, no change")
    _refuse_owned(layer)
    return layer


def _inline(document: Value) -> Layer:
    layer, base = as_layer(document)
    if base is not None:
        raise UserError(f"{base.where}: base: belongs at the top of the suite")
    _refuse_owned(layer)
    return layer


def _refuse_owned(layer: Layer) -> None:
    for key in layer.keys() & _OWNED.keys():
        raise UserError(f"{layer[key].where}: {key}: {_OWNED[key]}")


def _beside(suite: Path, name: Value) -> Path:
    path = Path(os.path.normpath(suite.parent / str(name.value)))
    if not os.path.isfile(path):  # unlike Path.is_file, no error for an overlong name
        beside = "; it is looked for relative to the suite's own folder"
        raise UserError(f"{name.where}: {shorten(str(name.value))}: no such file{beside}")
    return path


def _cell_name(name: str, delta: Value) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", name):
        raise UserError(f"{delta.where}: {shorten(name)}: a cell's name is letters, digits, _ . and -")
    return name
