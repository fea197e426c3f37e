"""The comparison as tables: for the console, Markdown, LaTeX and, with every number raw, CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from detector.analysis.evidence import metric_of
from detector.analysis.statistics import Difference, Estimate, estimate
from detector.errors import for_spreadsheet
from detector.tools.compare.comparison import BRACKETS, Comparison, Group
from detector.tools.compare.metrics import COSTS, Metric
from detector.tools.compare.runs import Run

_LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "−": "$-$",
        "→": r"$\to$",
        "×": r"$\times$",
        "–": "--",
        "…": r"\dots{}",
        "Δ": r"$\Delta$",
        "<": r"$<$",
        ">": r"$>$",
        "[": "{[}",  # after \\ a bracket would be an argument
    }
)


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


def print_console(comparison: Comparison, console: Console, *, wide: bool = False) -> None:
    """Print the tables and remarks, the runs left out included.

    Args:
        comparison: what is printed.
        console: where to; a row is one line of it.
        wide: every column and interval instead, however wide that is.
    """
    for sheet in sheets(comparison):
        tables = [_whole(sheet)] if wide else [_compact(sheet, narrow=False), _compact(sheet, narrow=True)]
        widths = [
            console.measure(table, options=console.options.update(width=10_000)).maximum for table in tables
        ]
        fits = next((at for at, width in enumerate(widths) if width <= console.width), len(tables) - 1)
        if wide:  # a terminal may fold its lines, but nothing is cut off
            console.width = max(console.width, widths[fits])
        excess = widths[fits] - console.width
        if excess > 0:
            longest = max(len(row[0].line or row[0].text) for row in sheet.rows)
            tables[fits].columns[0].max_width = max(8, longest - excess)
        console.print(tables[fits], "")
    lines = [] if wide else ["With --wide: p values, loss, seconds and every interval."]
    lines += [line for line in remarks(comparison, brief=not wide) if wide or line != BRACKETS]
    for line in lines:
        for number, part in enumerate(Text(line).wrap(console, console.width - 2)):
            part.rstrip()
            console.print(Text("  " if number else "· ") + part)


def _compact(sheet: Sheet, *, narrow: bool) -> Table:
    """A line a row; a narrow one has means only."""
    title = Text(sheet.title, style="bold")
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    kept = [at for at, column in enumerate(sheet.short) if column]
    for at in kept:
        side: Literal["left", "right"] = "right" if sheet.rows[0][at].numeric else "left"
        head = Text(sheet.short[at], style="bold")
        table.add_column(head, justify=side, no_wrap=True, overflow="ellipsis")
    for row in sheet.rows:
        cells = [row[at] for at in kept]
        table.add_row(*(Text(cell.short * narrow or cell.line or cell.text) for cell in cells))
    return table


def _whole(sheet: Sheet) -> Table:
    title = Text(sheet.title, style="bold")
    table = Table(title=title, title_justify="left", show_lines=True)
    for column, cell in zip(sheet.columns, sheet.rows[0], strict=True):
        table.add_column(Text(column), justify="right" if cell.numeric else "left", no_wrap=True)
    for row in sheet.rows:
        table.add_row(*(Text.assemble(c.text, *(("\n" + line, "dim") for line in c.below)) for c in row))
    return table


def remarks(comparison: Comparison, *, brief: bool = False) -> list[str]:
    """What goes below the tables: how to read them, and every run that is not simply finished."""
    lines = [f"Conditions: {comparison.conditions}."] if comparison.conditions else []
    lines += [f"Not comparable, and compared all the same: {line}." for line in comparison.differing]
    lines += comparison.brief_notes if brief else comparison.notes
    for group in comparison.groups:
        for run in group.runs:
            if run.notes or run.state != "finished":
                why = "; ".join(run.notes)
                lines.append(f"{run.directory.name}: {run.state}" + (f": {why}" if why else ""))
    return lines + [f"left out: {item.directory.name}: {item.reason}" for item in comparison.left_out]


def escape(text: str) -> str:
    """Text that is just that in Markdown."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")
    for character in "|*_`[]":
        text = text.replace(character, "\\" + character)
    return text


def markdown(comparison: Comparison) -> str:
    """GitHub's Markdown."""
    blocks = []
    for sheet in sheets(comparison):
        head = "| " + " | ".join(map(escape, sheet.columns)) + " |"
        rule = "|" + "|".join("--:" if cell.numeric else "---" for cell in sheet.rows[0]) + "|"
        rows = [
            "| " + " | ".join("<br>".join(map(escape, (c.text, *c.below))) for c in row) + " |"
            for row in sheet.rows
        ]
        caption = f"**{escape(sheet.title)}** {escape(comparison.conditions)}".rstrip()
        blocks.append("\n".join([caption, "", head, rule, *rows]))
    blocks.append("\n".join(f"- {escape(line)}" for line in remarks(comparison)))
    return "\n\n".join(blocks) + "\n"


def latex(comparison: Comparison) -> str:
    """A `table` each, for \\usepackage{booktabs}, its conditions in the caption; the remarks are comments."""
    blocks = []
    for sheet in sheets(comparison):
        kinds = "".join("r" if cell.numeric else "l" for cell in sheet.rows[0])
        caption = _tex(_one_line(f"{sheet.title}. {comparison.conditions}."))
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
        lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule"]
        lines += [" & ".join(_tex(column) for column in sheet.columns) + r" \\", r"\midrule"]
        for row in sheet.rows:
            lines.append(" & ".join(_tex(cell.text) for cell in row) + r" \\")
            if any(cell.below for cell in row[1:]):
                small = (rf"{{\scriptsize {_tex(', '.join(c.below))}}}" if c.below else "" for c in row)
                lines.append(" & ".join(small) + r" \\")
        blocks.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]))
    blocks.append("\n".join(f"% {_one_line(line)}" for line in remarks(comparison)))
    return "\n\n".join(blocks) + "\n"


def _tex(text: str) -> str:
    return text.translate(_LATEX)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def csv_text(comparison: Comparison) -> str:
    """Long form: one row an ablation and metric, and one a factorial effect and metric, digits untouched."""
    columns = ["kind", "name", "metric", "n", "mean", "sd", "ci95_low", "ci95_high", "p_sign_flip", "p_holm"]
    rows: list[Sequence[object]] = []
    for group in comparison.groups:
        for metric in comparison.metrics:
            rows.append(["measured", group.label, metric.key, *_numbers(group.estimates[metric.key]), "", ""])
        for key, d in group.differences.items():
            rows.append(["difference", group.label, key, *_numbers(d), *map(_raw, (d.p, d.p_holm))])
    if (design := comparison.factorial) is not None:
        for key, by_factor in design.simple.items():
            rows += [["simple effect", design.name((f,)), key, *_numbers(d), _raw(d.p), ""]
                     for f, d in by_factor.items()]  # fmt: skip
        for key, by_effect in design.effects.items():
            rows += [["effect", design.name(f), key, *_numbers(e), "", ""] for f, e in by_effect.items()]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for kind, name, *rest in rows:
        writer.writerow([kind, for_spreadsheet(str(name)), *rest])
    return out.getvalue()


def _numbers(e: Estimate) -> list[object]:
    return [e.n, *map(_raw, (e.mean, e.sd, e.low, e.high))]


def _raw(number: float) -> object:
    return repr(number) if math.isfinite(number) else ""
