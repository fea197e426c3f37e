"""Which runs are one row of the comparison, what the row is called, and which row is the baseline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.config.experiment import WATCHED, experiment
from detector.config.loading import load_config
from detector.config.schema import Config
from detector.errors import UserError, escape_control
from detector.rundir.finding import run_directory
from detector.tools.compare.runs import LeftOut, Run

DEFAULTS = "configs/coco8.yaml"  # what a run is a change of, where its name is no file's
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Parts:
    """The runs by label."""

    runs: Mapping[str, Sequence[Run]]
    references: Mapping[str, str]  # where a name stands for several configurations: whose the plain name is


def partition(runs: Sequence[Run]) -> Parts:
    """Runs by label. Where one name stands for several configurations, the label says what differs.

    The plain name is that of the configuration nearest to the defaults, in whatever order the runs are given:
    of the others it can then be said what was changed.
    """
    by_name: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        key = repr((run.data, sorted(run.identity.items())))
        if not run.data:  # it joins the runs that know their data, if there are any
            same = [other for other in runs if other.data and other.dataset == run.dataset]
            key = repr(((same or [run])[0].data, sorted(run.identity.items())))
        by_name.setdefault(run.name, {}).setdefault(key, []).append(run)
    parts: dict[str, list[Run]] = {}
    references = {}
    for name, variants in by_name.items():
        several = list(variants.values())
        if len(several) > 1:
            several, references[name] = _nearest_first(name, several)
        reference = several[0][0]
        for number, same in enumerate(several):
            label = name
            if number:
                differs = changes(same[0], reference)
                if same[0].dataset != reference.dataset:
                    differs.insert(0, f"on {same[0].dataset}")
                label = f"{name} [{', '.join(differs[:2]) or 'other data'}{', …' * (len(differs) > 2)}]"
                while label in parts:
                    label += "′"
            parts[label] = sorted(same, key=lambda run: (run.seed is None, run.seed))
    return Parts(parts, references)


def _nearest_first(name: str, variants: Sequence[list[Run]]) -> tuple[list[list[Run]], str]:
    """The configuration that changes the fewest keys of its defaults in front; and, in words, which."""
    if any(WATCHED in same[0].config for same in variants):  # of another training loop no defaults are known
        first, why = 0, "the first that was given"
    else:
        source, defaults = _defaults(name)
        far = [len(_differing(same[0].identity, defaults)) for same in variants]
        first, why = far.index(min(far)), f"which changes the fewest keys of {source}"
        if far.count(min(far)) > 1:
            why = f"the first given of those that change the fewest keys of {source}"
    ordered = [variants[first], *(same for at, same in enumerate(variants) if at != first)]
    return ordered, f"{name} is {variants[first][0].directory.name}, {why}"


def _defaults(name: str) -> tuple[str, dict[str, Any]]:
    """The file that runs of this name come from, and its experiment; of most that is `DEFAULTS`."""
    own = [f"{folder}/{name}.yaml" for folder in ("ablations", "configs")]
    plain = re.fullmatch(r"\w[\w.-]*", name)  # a run may be a stranger's, and its name any text
    for file in [*own, DEFAULTS] if plain else [DEFAULTS]:
        with suppress(UserError):  # most names are no file's
            return file, experiment(load_config(file).config)
    return "the built-in values", experiment(Config())


def find_baseline(parts: Mapping[str, Sequence[Run]], wanted: str | None, left_out: Sequence[LeftOut]) -> str:
    """The label of what the others are set against.

    Args:
        parts: the runs by label.
        wanted: a label, or the directory of one of the runs; None: `baseline`, else the first.
        left_out: which runs are not compared.

    Raises:
        UserError: neither a row nor a run is called so.
    """
    if wanted is None:
        return "baseline" if "baseline" in parts else next(iter(parts))
    if wanted in parts:
        return wanted
    with suppress(OSError, ValueError):  # too long, or with a NUL: no directory either
        directory = run_directory(Path(wanted)).resolve()
        for label, runs in parts.items():
            if any(run.directory == directory for run in runs):
                return label
        for item in left_out:
            if item.directory == directory:
                raise UserError(f"--baseline {wanted}: is left out: {item.reason}")
    raise UserError(
        f"--baseline {wanted}: no such ablation among {', '.join(parts)}; "
        "nor is it the directory of a run that is compared"
    )


def changes(run: Run, reference: Run) -> list[str]:
    """What of the experiment is another than in the reference, as section.key=value."""
    ours = run.identity
    return [f"{key}={_yaml(ours.get(key, _UNKNOWN))}" for key in _differing(ours, reference.identity)]


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    keys = dict.fromkeys((*ours, *theirs))
    return [key for key in keys if ours.get(key, _UNKNOWN) != theirs.get(key, _UNKNOWN)]


def _yaml(value: object) -> str:
    text = (
        "null"
        if value is None
        else str(value).lower()
        if isinstance(value, bool)
        else escape_control(str(value))
    )
    return text if len(text) <= 40 else text[:39] + "…"
