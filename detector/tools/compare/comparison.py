"""Runs grouped into ablations and set against a baseline, after a check that they may be compared."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from detector.analysis.statistics import (
    DESCRIBE,
    TEST,
    Difference,
    Estimate,
    difference,
    estimate,
    holm,
    smallest_p,
)
from detector.errors import UserError
from detector.runtime.files import read_bytes
from detector.tools.compare.factorial import Factorial, find_factorial
from detector.tools.compare.labels import changes, find_baseline, partition
from detector.tools.compare.metrics import COSTS, METRICS, Metric, with_own
from detector.tools.compare.networks import conditions, mixed, some, things, unfair, what_to_name
from detector.tools.compare.runs import LeftOut, Run

SUITE_FILE = "suite.json"  # in the folder of a suite's runs: the names of its cells, in order
MAX_SUITE = 1_000_000  # bytes
_DATA_WARNINGS = {
    "same-images": "val holds the images of train, and its mAP is memorisation",
    "no-objects": "train or val shows no object at all, and has no mAP",
}


@dataclass(frozen=True)
class Group:
    """An ablation: the runs that differ in nothing but their seed."""

    label: str
    runs: tuple[Run, ...]
    changes: tuple[str, ...]  # against the baseline, as section.key=value
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Difference]  # from the baseline, paired by seed; empty for the baseline

    def cost(self, metric: Metric) -> float:
        """What its network costs, the mean over its runs; NaN if one does not say."""
        return fmean(run.costs.get(metric.key, math.nan) for run in self.runs)

    def verdict(self, late: bool) -> str:
        """The runs' verdict, with counts where they disagree."""
        counts = Counter(v for run in self.runs if (v := run.verdicts[late]))
        if len(counts) < 2:
            return next(iter(counts), "–")
        return ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common())


@dataclass(frozen=True)
class Comparison:
    """Everything the tables and the page show."""

    groups: tuple[Group, ...]  # in the order of their suite, else the baseline first
    left_out: tuple[LeftOut, ...]
    differing: tuple[str, ...]  # why the runs are not comparable, where that was allowed
    notes: tuple[str, ...]
    brief_notes: tuple[str, ...] = ()  # the same, naming two of each kind
    factorial: Factorial | None = None
    datasets: tuple[str, ...] = field(default=())
    conditions: str = ""  # what a caption says: data, budget, machine, commit
    metrics: tuple[Metric, ...] = METRICS  # what is compared: of every run, and the registered ones

    @property
    def baseline(self) -> Group:
        """What the others are set against."""
        return next(group for group in self.groups if not group.differences)

    @property
    def others(self) -> tuple[Group, ...]:
        """All but the baseline, in their order."""
        return tuple(group for group in self.groups if group.differences)


def compare(
    runs: Sequence[Run],
    left_out: Sequence[LeftOut] = (),
    *,
    baseline: str | None = None,
    allow_mixed: bool = False,
) -> Comparison:
    """Group the runs by what they were told, and set each group against the baseline.

    Args:
        runs: as `load_runs` returns them.
        left_out: is passed on.
        baseline: its label, or the directory of a run of its; by default `baseline`, else the first.
        allow_mixed: compare runs on different data, image sizes or steps all the same.

    Raises:
        UserError: the runs are not comparable, or there is no such baseline.
    """
    differing = mixed(runs)
    if differing and not allow_mixed:
        raise UserError(f"these runs are not comparable: {'; '.join(differing)}.\n{what_to_name(runs)}")
    found = partition(runs)
    parts, first = found.runs, find_baseline(found.runs, baseline, left_out)
    order = _suite_order(runs)
    labels = [first, *(label for label in parts if label != first)]
    metrics = with_own(key for run in runs for key in run.values)
    groups = _corrected([_group(label, parts[label], parts[first], metrics) for label in labels], metrics)
    if order:
        groups.sort(key=lambda group: order.get(group.runs[0].name, len(order)))
    factorial = find_factorial({label: parts[label] for label in labels}, metrics)
    return Comparison(
        groups=tuple(groups),
        left_out=tuple(left_out),
        differing=tuple(differing),
        notes=_notes(groups, factorial, found.references),
        brief_notes=_notes(groups, factorial, found.references, named=2),
        factorial=factorial,
        conditions=conditions(runs),
        datasets=tuple(sorted({run.dataset for run in runs})),
        metrics=metrics,
    )


def _suite_order(runs: Sequence[Run]) -> dict[str, int]:
    """The place of each ablation in the suites whose folders the runs lie in; empty where there are none."""
    names: dict[str, int] = {}
    for folder in dict.fromkeys(run.directory.parent for run in runs):
        try:
            cells = json.loads(read_bytes(folder / SUITE_FILE, MAX_SUITE))["cells"]
            names |= {
                str(name): len(names) + place for place, name in enumerate(cells) if str(name) not in names
            }
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            continue  # it only loses the order
    return names


def _group(label: str, runs: Sequence[Run], baseline: Sequence[Run], metrics: Sequence[Metric]) -> Group:
    by_seed = {run.seed: run for run in baseline}
    pairs = [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]
    own = runs is baseline
    return Group(
        label=label,
        runs=tuple(runs),
        changes=tuple(changes(runs[0], baseline[0])),
        estimates={m.key: estimate([run.value(m.key) for run in runs], m.bounds, m.within) for m in metrics},
        differences={}
        if own
        else {
            m.key: difference([(a.value(m.key), b.value(m.key)) for a, b in pairs], m.bounds, m.within)
            for m in metrics
            if m.tested
        },
    )


def _corrected(groups: Sequence[Group], metrics: Sequence[Metric]) -> list[Group]:
    """Holm's correction, one family for each metric: all ablations that are set against the baseline."""
    others = groups[1:]
    corrected: list[dict[str, Difference]] = [{} for _ in others]
    for metric in (m for m in metrics if m.tested):
        found = [group.differences[metric.key] for group in others]
        for into, one, p in zip(corrected, found, holm([d.p for d in found]), strict=True):
            into[metric.key] = replace(one, p_holm=p)
    return [groups[0], *(replace(g, differences=d) for g, d in zip(others, corrected, strict=True))]


def _edges(groups: Sequence[Group], most: int | None) -> list[str]:
    """Which rows are at a floor or a ceiling, metric by metric: between them nothing can be told apart."""
    lines = []
    for metric in METRICS:
        for edge in ("floor", "ceiling"):
            labels = [group.label for group in groups if group.estimates[metric.key].edge == edge]
            if labels:
                lines.append(
                    f"{metric.label} is at its {edge} in {len(labels)} of {len(groups)} rows "
                    f"({some(labels, most)}), where no interval means anything and averages say little."
                )
    return lines


def _fairness(groups: Sequence[Group], factorial: Factorial | None, most: int | None) -> list[str]:
    """Which groups differ from the baseline in more than one thing; a factorial is made of such groups."""
    first = next(group for group in groups if not group.differences)
    crossed = set(factorial.cells.values()) if factorial is not None else set[str]()
    others = [group for group in groups if group is not first and group.label not in crossed]
    sizes = {m.label: first.cost(m) for m in COSTS[:2]}
    return unfair(
        {group.label: things(group.runs[0], first.runs[0], group.changes) for group in others},
        {
            group.label: {m.label: group.cost(m) / size for m in COSTS[:2] if (size := sizes[m.label]) > 0}
            for group in others
        },
        most,
    )


BRACKETS = (
    "Brackets are 95 % Student-t intervals, cut off where the number ends: mAP at 0 and 1, loss and seconds "
    "at 0. Near such a bound they are only a guide."
)


def _notes(
    groups: Sequence[Group],
    factorial: Factorial | None,
    references: Mapping[str, str],
    named: int | None = None,
) -> tuple[str, ...]:
    """What a reader must know to trust the numbers; of a kind, so many are `named`."""
    runs = [run for group in groups for run in group.runs]
    fewest, most = min(len(group.runs) for group in groups), max(len(group.runs) for group in groups)
    count = f"n = {fewest}" if fewest == most else f"n = {fewest} to {most}"
    notes = ["Mean ± standard deviation over seeds.", BRACKETS] if most > 1 else []
    notes.append(
        f"{count} seed{'s' * (most > 1)} a row; it takes {DESCRIBE} to describe what a configuration does, "
        f"and {TEST} to claim a difference"
        + (f": with fewer than {DESCRIBE}, the numbers are examples only" if fewest < DESCRIBE else "")
        + "."
    )
    if references:
        whose = some(list(references.values()), named, "; ")
        notes.append(
            f"Where configurations share a name, the plain one is the reference of the others: {whose}."
        )
    notes += _edges(groups, named)
    pairs = max((d.n for group in groups for d in group.differences.values()), default=0)
    if pairs:
        least = smallest_p(pairs)
        notes.append(
            "Differences from the baseline are paired by seed; p is the exact sign-flip test's, two-sided, "
            f"then corrected after Holm over the ablations. The smallest p that {pairs} pair(s) can give is "
            f"{least:.2g}, before correction"
            + (
                ": no difference here can be significant at .05, so judge by"
                if least > 0.05
                else f": fewer than {TEST} pairs claim no test here, so judge by"
                if pairs < TEST
                else "; see also"
            )
            + " size and interval."
        )
    if any(run.dataset == "coco8" for run in runs):
        notes.append(
            "COCO8 trains on four images: its train mAP is memorisation, and its val mAP says nothing."
        )
    for kind, meaning in _DATA_WARNINGS.items():
        if warned := [run.directory.name for run in runs if kind in run.warnings]:
            notes.append(f"{meaning}: {some(warned, named)}.")
    commits = sorted({run.commit for run in runs if run.commit})
    if len(commits) > 1:
        notes.append(
            f"The runs come from {len(commits)} commits: {', '.join(commits[:6])}{' …' * (len(commits) > 6)}."
        )
    if unknown := [run.directory.name for run in runs if run.data is None]:
        notes.append(
            "What data they trained on could not be verified, for lack of its fingerprint in a summary: "
            f"{some(unknown, named)}."
        )
    ends = Counter(run.state for run in runs)
    if ends["diverged"]:
        notes.append(
            f"{ends['diverged']} run(s) diverged: they count in mAP and V at init, not in loss or time."
        )
    if incomplete := ends["stopped"] + ends["unfinished"]:
        notes.append(f"{incomplete} run(s) did not reach their end: only their V at init counts.")
    return (*notes, *_fairness(groups, factorial, named))
