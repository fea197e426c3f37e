"""The cells of the crossed experiment: what each one changes, and whose gradient curve is imposed on it.

| role | forward pass | gradient | tells |
|---|---|---|---|
| `baseline` | intact | its own | |
| `ablation` | as the file strips it | its own | the gap to explain |
| `trunk` | only the trunk stripped | its own | the graft: this trunk under an intact neck and head |
| `rest` | only neck and head stripped | its own | the reverse graft |
| `baseline_frozen`, `trunk_frozen` | intact; trunk stripped | no use of it | what is there without it |
| `sufficiency` | intact | the stripped trunk's | does the sick curve alone hurt? |
| `necessity` | trunk stripped | the baseline's | does the healthy curve alone heal? |
| `control` | intact | falling by nine decades | would a gradient cause be seen? |

Where the ablation strips only the trunk, `ablation` and `trunk` are one cell, and there is no `rest`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detector.config.loading import Layer, check, find_file, merge, parse_overrides, read_chain
from detector.config.safe_yaml import Value, written
from detector.config.schema import Config
from detector.errors import UserError, display_path
from detector.jobs.cell import Cell, changes_of

Role = Literal[
    "baseline", "ablation", "trunk", "rest", "baseline_frozen", "trunk_frozen", "sufficiency", "necessity",
    "control",
]  # fmt: skip

STRIPS = "model.act", "model.norm", "model.shortcut"  # what can be taken apart
DECADES = 9  # of the positive control
PROFILE = "nine_decades.json"  # in the folder of the runs
_DECIDED = {
    "train.seed": "all cells are run with the same seeds: use --seeds",
    "run.dir": "every cell has a directory of its own: use --out",
    "run.name": "a cell is named after the ablation",
    "model.freeze": "the cells decide whose trunk is frozen",
    "gradients.impose": "the cells decide whose curve is imposed",
}


@dataclass(frozen=True)
class Design:
    """All the cells of one ablation."""

    name: str  # of the ablation
    base: Path  # the configuration of the baseline
    strips_rest: bool  # neck and head are stripped, too
    cells: Mapping[Role, Sequence[Cell]]  # one cell a seed
    sources: Mapping[Role, Role]  # a cell -> the one whose curve is imposed on it


def design(ablation: Path, on: str, seeds: int, out: Path, overrides: Sequence[str] = ()) -> Design:
    """Every cell of an ablation, checked.

    Args:
        ablation: a file, or the project's by its name.
        on: `shapes`, `coco8` or a data YAML, which is trained on as `shapes` is.
        seeds: how many.
        out: the folder of the runs, which imposed curves are read from.
        overrides: section.key=value for all cells.

    Raises:
        UserError: the file is no ablation that this can take apart, or a value is wrong.
    """
    path = find_file(ablation)
    name = path.stem
    strip = changes_of(path)
    if strip is None or name == "baseline":
        raise UserError(f"{display_path(path)}: has no `base:`: it is a whole experiment, no ablation")
    for key in strip:
        if key not in (*STRIPS, "model.scope") and not key.startswith("tracking."):
            raise UserError(
                f"{strip[key].where}: {key}: detector why takes apart what {', '.join(STRIPS)} strip, "
                "nothing else; compare this ablation with its baseline: detector compare"
            )
    base = find_file(f"why_{on}" if on in ("shapes", "coco8") else "why_shapes")
    command_line = parse_overrides(overrides)
    if scope := command_line.pop("model.scope", None):  # of the ablation: the cells vary it
        strip = strip | {"model.scope": scope}
    for key in command_line.keys() & _DECIDED.keys():
        raise UserError(f"{command_line[key].where}: {key}: {_DECIDED[key]}")
    if on not in ("shapes", "coco8"):
        command_line.setdefault("data.path", Value(on, "--on"))
    root = merge(layer for _, layer in read_chain(base))
    root = {key: value for key, value in root.items() if not key.startswith("run.")}
    intact, stripped = check(merge([root, command_line])), check(merge([root, strip, command_line]))
    if intact.model == stripped.model:
        raise UserError(f"{display_path(path)}: strips nothing: its model is the baseline's")
    if stripped.model.scope == "neck_and_head":
        raise UserError(f"{display_path(path)}: model.scope: neck_and_head: the trunk is as in the baseline")
    strips_rest = stripped.model.scope == "all" and any(
        getattr(intact.model, key) != getattr(stripped.model, key) for key in ("act", "norm")
    )

    def scoped(scope: str) -> Layer:
        return strip | {"model.scope": Value(scope, "detector why")}

    trunk, frozen = scoped("trunk") if strips_rest else strip, {"model.freeze": Value("backbone", "")}
    trunk_name = f"{name}.trunk" if strips_rest else name
    changes: dict[Role, tuple[str, Layer]] = {
        "baseline": ("baseline", {}),
        "ablation": (name, strip),
        "baseline_frozen": ("baseline.frozen", frozen),
        "trunk_frozen": (f"{trunk_name}.frozen", trunk | frozen),
        "control": ("baseline.nine_decades", _imposed(str(out / PROFILE))),
        "sufficiency": (f"baseline.curve_of_{trunk_name}", _imposed(_run(out, trunk_name))),
        "necessity": (f"{trunk_name}.curve_of_baseline", trunk | _imposed(_run(out, "baseline"))),
    }
    if strips_rest:
        changes["trunk"] = (trunk_name, trunk)
        changes["rest"] = (f"{name}.neck_and_head", scoped("neck_and_head"))
    common = {"data.fallback": Value("none", ""), "tracking.group": Value(f"why-{Path(on).stem}", "")}
    cells = {}
    for role, (cell_name, layer) in changes.items():
        tags = [*intact.tracking.tags, "why", role]
        tags += [name] if name in cell_name else []
        own = {"run.name": Value(cell_name, ""), "tracking.tags": Value(tags, "")}
        complete = merge([layer, common, own, command_line])
        cells[role] = [_cell(cell_name, seed, base, root, complete) for seed in range(seeds)]
    source: Role = "trunk" if strips_rest else "ablation"
    return Design(name, base, strips_rest, cells, {"sufficiency": source, "necessity": "baseline"})


def nine_decades(layers: Sequence[str]) -> dict[str, float]:
    """A profile that falls by nine decades from the last layer to the first, by the same factor each."""
    steps = max(1, len(layers) - 1)
    return {name: 10.0 ** (-DECADES * (steps - at) / steps) for at, name in enumerate(layers)}


def _imposed(source: str) -> Layer:
    return {"gradients.impose": Value(source, "detector why")}


def _run(out: Path, name: str) -> str:
    return str(out / f"{name}-s{{seed}}")


def _cell(name: str, seed: int, base: Path, root: Layer, changes: Layer) -> Cell:
    paired = changes | {"train.seed": Value(seed, "--seeds")}
    typed = tuple(f"{key}={written(value.value)}" for key, value in paired.items())
    config: Config = check(merge([root, paired]))
    return Cell(name, seed, base, typed, config)
