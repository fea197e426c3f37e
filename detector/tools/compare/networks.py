"""Networks set against each other fairly: under which conditions, on which budget, and differing in what."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from detector.errors import display_path, shorten
from detector.tools.compare.runs import Run

SIZE = "data.image_size"
MOST_TYPED = 20  # runs that a command line is suggested for
_UNKNOWN = "unknown"
EQUAL_TIME = 1.1  # so far apart may runs be that are said to have had the same time
EQUAL_SIZE = 1.1  # likewise networks of one size


def planned(run: Run) -> str:
    """How long the run was to train, in the unit its configuration says it in; "" if that is not known."""
    if isinstance(steps := run.config.get("train.steps"), int):
        return f"{steps} steps"
    epochs = run.config.get("train.epochs")
    batch = f"batch {run.config.get('train.batch')} × {run.config.get('train.accumulate', 1)}"
    return f"{epochs} epochs of {batch}" if epochs is not None else ""


def equal_time(runs: Sequence[Run]) -> bool:
    """Whether runs of several lengths took the same time, each length on average."""
    times: dict[str, list[float]] = {}
    for run in runs:
        times.setdefault(planned(run), []).append(run.value("seconds"))
    means = [fmean(found) for found in times.values()]
    return all(map(math.isfinite, means)) and 0 < max(means) <= EQUAL_TIME * min(means)


def conditions(runs: Sequence[Run]) -> str:
    """What a table's caption says of its runs: data, budget, machine and commit."""
    lengths = {planned(run) for run in runs}
    batches = {run.config.get("train.batch") for run in runs}
    batch = f" of batch {batches.pop()}" if len(batches) == 1 and "epochs" not in "".join(lengths) else ""
    if not any(lengths):  # watched runs, whose loops said nothing of it
        budget = ""
    elif len(lengths) == 1:
        budget = (
            f"equal budget in {'epochs' if 'epochs' in min(lengths) else 'steps'}: {lengths.pop()}{batch}"
        )
    elif equal_time(runs):
        budget = f"equal budget in time: {fmean(run.value('seconds') for run in runs):.0f} s a run"
    else:
        budget = f"budgets differ: {', '.join(sorted(lengths))}"
    sizes = sorted({run.config[SIZE] for run in runs if SIZE in run.config})  # a watched run need not say it
    at = f" at {', '.join(f'{size} px' for size in sizes)}" if sizes else ""
    data = ", ".join(sorted({run.dataset for run in runs if run.dataset != "unknown"}))
    parts = [
        f"{data}{at}".strip(),
        budget,
        "; ".join(sorted({run.machine for run in runs if run.machine})[:3]),
        ", ".join(f"commit {commit}" for commit in sorted({run.commit for run in runs if run.commit})[:3]),
    ]
    return "; ".join(part for part in parts if part)


def mixed(runs: Sequence[Run]) -> list[str]:
    """What differs among the runs that makes their numbers incomparable, in words."""
    lines = []
    for kind, of in _kinds(runs).items():
        found: dict[str, list[Run]] = {}
        for run in runs:
            found.setdefault(of(run), []).append(run)
        unknown = found.pop(_UNKNOWN, [])
        if kind == "data":  # an unfinished run has no fingerprint, but does name its data
            names = {run.dataset for same in found.values() for run in same}
            for run in unknown:
                if run.dataset not in names:
                    found.setdefault(run.dataset, []).append(run)
        if len(found) > 1:
            parts = [
                f"{value} ({len(same)}: {same[0].directory.name}{', …' * (len(same) > 1)})"
                for value, same in found.items()
            ]
            lines.append(f"{kind}: {' and '.join(parts)}")
    return lines


def _kinds(runs: Sequence[Run]) -> dict[str, Callable[[Run], str]]:
    """In what runs must agree to be compared."""
    kinds: dict[str, Callable[[Run], str]] = {
        "data": lambda run: f"{run.dataset} {run.data[:8]}" if run.data else _UNKNOWN,
        "image size": lambda run: f"{size} px" if (size := run.config.get(SIZE)) else _UNKNOWN,
        "length": lambda run: planned(run) or _UNKNOWN,
    }
    if not any(run.data for run in runs):  # nothing has ended yet: the name is all there is to go by
        kinds["data"] = lambda run: run.dataset
    return kinds


def what_to_name(runs: Sequence[Run]) -> str:
    """What to type instead, where runs are not comparable: the most that are, if these are several."""
    kinds = _kinds(runs).values()
    alike: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        alike.setdefault(tuple(of(run) for of in kinds), []).append(run)
    largest = max(alike.values(), key=len)
    anyway = "or compare them all the same with --allow-mixed."
    if not 1 < len(largest) <= MOST_TYPED:
        return f"Name the runs that belong together, {anyway}"
    typed = " ".join(shlex.quote(display_path(run.directory)) for run in largest)
    return f"Name the runs that belong together, such as these {len(largest)}: {typed}; {anyway}"


def replaced(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """How a network's layers differ from another's, each kind of difference once."""
    if len(ours) != len(theirs):
        return [f"{len(ours)} layers instead of {len(theirs)}"]
    found: dict[str, None] = {}
    for one, other in zip(map(json.loads, ours), map(json.loads, theirs), strict=True):
        names = [shorten(str(layer[2])) for layer in (one, other)]
        if names[0] != names[1]:  # another block takes other arguments
            found[f"{names[1]} → {names[0]}"] = None
        elif one[3] != other[3]:
            found[f"arguments of {names[0]}"] = None
        for what, at in (("connections", 0), ("repeats", 1)):
            if one[at] != other[at]:
                found[f"{what} of {names[0]}"] = None
    return list(found)


def things(run: Run, reference: Run, changes: Sequence[str]) -> list[str]:
    """In what a run differs from another; that networks are described by other files is no difference."""
    if not (run.network and reference.network):
        return list(changes)
    layers = replaced(run.network, reference.network)
    if not layers:
        return list(changes)
    return [*layers, *(change for change in changes if not change.startswith("model.pretrained="))]


def unfair(
    differs: Mapping[str, Sequence[str]],
    sizes: Mapping[str, Mapping[str, float]],
    most: int | None = None,
) -> list[str]:
    """Which differences from the baseline have no single cause, in a sentence for each reason.

    Args:
        differs: see `things`, by ablation.
        sizes: a network's cost over the baseline's, by what it is a cost in, by ablation.
        most: so many are named for each reason; None: all.
    """
    several = [f"{label} ({', '.join(what)})" for label, what in differs.items() if len(what) > 1]
    apart = [
        f"{label} ({', '.join(f'{ratio:.2f} × its {name}' for name, ratio in unequal.items())})"
        for label, ratios in sizes.items()
        if (unequal := {n: r for n, r in ratios.items() if r > 0 and not 1 / EQUAL_SIZE <= r <= EQUAL_SIZE})
    ]
    lines = []
    if several:
        cause = "so which of them makes the difference is not known"
        listed = some(several, most, "; ")
        lines.append(f"Differs from the baseline in more than one thing, {cause}: {listed}.")
    if apart:
        listed = some(apart, most, "; ")
        lines.append(f"Not of the baseline's size, which may be what makes the difference: {listed}.")
    return lines


def some(names: Sequence[str], most: int | None, separator: str = ", ") -> str:
    """Names in a sentence, on a terminal the first few and where the others are; `most` is None for all."""
    if most is None or len(names) <= most:
        return separator.join(names)
    return f"{separator.join(names[:most])} and {len(names) - most} more, see --wide"
