"""The comparison as tables: for the console, Markdown, LaTeX and, with every number raw, CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from detector.analysis.statistics import Estimate
from detector.errors import for_spreadsheet
from detector.tools.compare.comparison import BRACKETS, Comparison
from detector.tools.compare.sheets import Sheet, sheets

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
