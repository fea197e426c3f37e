"""What the tables of a comparison say, in no format yet: their titles, columns and cells."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from detector.analysis.evidence import metric_of
from detector.analysis.statistics import Difference, Estimate, estimate
from detector.tools.compare.comparison import Comparison, Group
from detector.tools.compare.metrics import COSTS, Metric
from detector.tools.compare.runs import Run


@dataclass(frozen=True)
class Cell:
    """A number with what belongs below it, such as its interval; or a word."""

    text: str
    below: tuple[str, ...] = ()
    numeric: bool = True
    line: str = ""  # in a terminal's one line, if not just the text
    short: str = ""  # in a narrow terminal's


@dataclass(frozen=True)
class Sheet:
    """One table, in no format yet."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    short: tuple[str, ...]  # the columns' names on a terminal; without one, they are there with --wide only


def sheets(comparison: Comparison) -> list[Sheet]:
    """The tables of a comparison: what was measured, differences from the baseline, factorial effects."""
    found = [_measured(comparison)]
    if len(comparison.groups) > 1:
        found.append(_differences(comparison))
    if _are_networks(comparison):
        found.append(_networks(comparison))
    if comparison.factorial is not None:  # the averages last: they hide simple effects of opposite signs
        found += [_simple(comparison), _effects(comparison)]
    return found


def value(number: float, metric: Metric) -> str:
    """A number in the metric's digits, with a true minus sign; a dash if there is none."""
    if not math.isfinite(number):
        return "–"
    return f"{number:{'+' if metric.signed else ''}.{metric.digits}f}".replace("-", "−")


def _lines(*texts: str) -> tuple[str, ...]:
    return tuple(text for text in texts if text)


def interval(e: Estimate, metric: Metric) -> str:
    """A 95 % interval, or why there is none: a single value, a bound that all are at, or no spread at all."""
    if e.edge:
        return f"at the {e.edge}"
    if round(e.sd, metric.digits) == 0:
        return f"the same in all {e.n}"
    return f"[{value(e.low, metric)}, {value(e.high, metric)}]" if math.isfinite(e.low) else ""


def _measured(comparison: Comparison) -> Sheet:
    def cell(group: Group, metric: Metric) -> Cell:
        e = group.estimates[metric.key]
        if "mAP" in metric.key and all(_has_no_objects(run, metric) for run in group.runs):
            return Cell("no objects", short="none")
        mean = value(e.mean, metric)
        spread = f" ± {value(e.sd, metric).lstrip('+')}" if e.n > 1 else ""
        of = f"{e.n} of {len(group.runs)} runs" if 0 < e.n < len(group.runs) else ""
        return Cell(mean + spread, _lines(interval(e, metric), of), short=mean)

    def verdict(group: Group) -> Cell:
        before, after = group.verdict(False), group.verdict(True)
        both = [before] if before == after else [before, after]
        most = (verdict.split(", ")[0] + "…" * ("," in verdict) for verdict in both)
        return Cell(before, (after,), False, " → ".join(both), "→".join(most))

    rows = []
    for group in comparison.groups:
        rows.append(
            (
                Cell(group.label, _lines(*(change.split(".", 1)[-1] for change in group.changes)), False),
                Cell(str(len(group.runs))),
                verdict(group),
                *(cell(group, metric) for metric in comparison.metrics),
            )
        )
    columns = ("ablation", "n", "verdict at init, late", *(metric.label for metric in comparison.metrics))
    short = ("ablation", "n", "verdict", *(metric.short for metric in comparison.metrics))
    return Sheet("What was measured", columns, tuple(rows), short)


def _has_no_objects(run: Run, metric: Metric) -> bool:
    """Whether a run was evaluated, but on a split that shows none."""
    return run.state == "finished" and "no-objects" in run.warnings and math.isnan(run.values[metric.key])


def _differences(comparison: Comparison) -> Sheet:
    def cell(d: Difference, metric: Metric) -> Cell:
        p = "" if math.isnan(d.p) else f"p {_p(d.p)}, Holm {_p(d.p_holm)}"
        signed = Metric(metric.key, metric.label, metric.digits, signed=True)
        return _with_interval(d, signed, p)

    tested = [metric for metric in comparison.metrics if metric.tested]
    rows = tuple(
        (
            Cell(group.label, numeric=False),
            Cell(str(max(d.n for d in group.differences.values()))),
            *(cell(group.differences[metric.key], metric) for metric in tested),
        )
        for group in comparison.others
    )
    title = f"Difference from {comparison.baseline.label}, paired by seed"
    columns = ("ablation", "pairs", *(f"Δ {metric.label}" for metric in tested))
    short = ("ablation", "n", *(f"Δ {metric.short}" * bool(metric.short) for metric in tested))
    return Sheet(title, columns, rows, short)


def _are_networks(comparison: Comparison) -> bool:
    """Whether the rows are networks of different sizes, or made of different layers."""
    told = [group for group in comparison.groups if all(run.costs for run in group.runs)]
    costs = {tuple(group.cost(metric) for metric in COSTS[:2]) for group in told}
    return len(costs) > 1 or len({group.runs[0].network for group in told}) > 1


def _networks(comparison: Comparison) -> Sheet:
    """What each network costs, and what it finds: of images never seen, but on COCO8."""
    key = metric_of("coco8" if comparison.datasets == ("coco8",) else "")
    metric = next(metric for metric in comparison.metrics if metric.key == key)
    rows = []
    for group in comparison.groups:
        costs = [estimate([run.costs.get(m.key, math.nan) for run in group.runs], m.bounds) for m in COSTS]
        d = group.differences.get(key)
        rows.append(
            (
                Cell(group.label, numeric=False),
                Cell(str(len(group.runs))),
                *(
                    Cell(value(cost.mean, m) + (f" ± {value(cost.sd, m)}" if m.bounds and cost.n > 1 else ""))
                    for cost, m in zip(costs, COSTS, strict=True)
                ),
                _with_interval(group.estimates[key], metric),
                Cell("–") if d is None else _with_interval(d, replace(metric, signed=True)),
            )
        )
    label, short = metric.label, metric.short
    columns = ("network", "n", *(m.label for m in COSTS[:2]), "ms an image", label, f"Δ {label}, paired")
    shorts = ("network", "n", *(m.short for m in COSTS), short, f"Δ {short}")
    return Sheet("What each network costs and finds", columns, tuple(rows), shorts)


def _with_interval(e: Estimate, metric: Metric, *more: str) -> Cell:
    mean, between = value(e.mean, metric), interval(e, metric)
    return Cell(mean, _lines(between, *more), line=f"{mean} {between}".rstrip(), short=mean)


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else "<0.001"


def _simple(comparison: Comparison) -> Sheet:
    design = comparison.factorial
    assert design is not None
    tested = [metric for metric in comparison.metrics if metric.tested]
    rows = []
    for factor in range(len(design.factors)):
        name, found = design.name((factor,)), [design.simple[metric.key][factor] for metric in tested]
        cells = [Cell(f"stripping {name}", numeric=False, line=name), Cell(str(max(d.n for d in found)))]
        for metric, d in zip(tested, found, strict=True):
            cells.append(_with_interval(d, Metric(metric.key, metric.label, metric.digits, signed=True)))
        rows.append(tuple(cells))
    base = design.cells[(False,) * len(design.factors)]
    columns = ("effect", "pairs", *(metric.label for metric in tested))
    short = ("effect", "n", *(metric.short for metric in tested))
    return Sheet(f"Simple effects: one component stripped from {base}", columns, tuple(rows), short)


def _effects(comparison: Comparison) -> Sheet:
    design = comparison.factorial
    assert design is not None
    tested = [metric for metric in comparison.metrics if metric.tested]
    rows = []
    for effect in next(iter(design.effects.values())):
        name = design.name(effect)
        kind = "stripping" if len(effect) == 1 else "interaction"
        cells = [Cell(f"{kind} {name}", numeric=False, line=name.replace(" (→ sigmoid)", ""))]
        for metric in tested:
            signed = Metric(metric.key, metric.label, metric.digits, signed=True)
            e = design.effects[metric.key][effect]
            cells.append(_with_interval(e, signed))
        rows.append(tuple(cells))
    k = len(design.factors)
    fixed = "".join(f", at {key.split('.')[1]}={level}" for key, level in design.fixed.items())
    n = max(e.n for by_effect in design.effects.values() for e in by_effect.values())
    title = f"Factorial effects (2^{k}{fixed}), averaged over the other components, n = {n} seeds"
    short = ("effect", *(metric.short for metric in tested))
    return Sheet(title, ("effect", *(metric.label for metric in tested)), tuple(rows), short)
