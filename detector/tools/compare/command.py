"""`detector compare`: runs in, tables and a web page out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detector.errors import UserError

if TYPE_CHECKING:
    from detector.tools.compare.comparison import Comparison


def compare(
    *paths: Path,
    html: Path | None = None,
    csv: Path | None = None,
    latex: Path | None = None,
    markdown: Path | None = None,
    baseline: str | None = None,
    allow_mixed: bool = False,
    wide: bool = False,
) -> Comparison:
    """Set runs side by side: a table over seeds, and a web page.

    A file named - is stdout, in place of the table.

    Args:
        paths: runs' directories, or folders of them.
        html: write one self-contained web page.
        csv: write every number, unrounded, in long form.
        latex: write tables for booktabs.
        markdown: write tables for GitHub.
        baseline: the ablation that the others are set against, or the directory of one of its runs.
        allow_mixed: compare runs on different data, image sizes or steps.
        wide: print every column and interval, wider than a terminal may be.

    Returns:
        What the table shows.

    Raises:
        UserError: nothing to compare, runs that are not comparable, or a file that cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from detector import compare
        >>> comparison = compare(Path("runs"), html=Path("report.html"))
        >>> {group.label: group.verdict(late=False) for group in comparison.groups}
        {'baseline': 'healthy', 'no_residual': 'exploding'}
    """
    from rich.console import Console

    from detector.tools.compare import table
    from detector.tools.compare.comparison import compare as compare_runs
    from detector.tools.compare.page import page
    from detector.tools.compare.runs import load_runs

    if not paths:
        raise UserError("compare what? Name runs' directories, or a folder of them, such as runs")
    runs, left_out = load_runs([Path(path) for path in paths])
    comparison = compare_runs(runs, left_out, baseline=baseline, allow_mixed=allow_mixed)
    writers = {"html": page, "csv": table.csv_text, "latex": table.latex, "markdown": table.markdown}
    wanted = {"html": html, "csv": csv, "latex": latex, "markdown": markdown}
    targets = {name: Path(path) for name, path in wanted.items() if path is not None}
    if Path("-") not in targets.values():
        console = Console()
        if not console.is_terminal:
            console = Console(width=200)  # in a file, a table squeezed into 80 columns is of no use
        table.print_console(comparison, console, wide=wide)
    for name, path in targets.items():
        text = writers[name](comparison)
        if path == Path("-"):
            sys.stdout.write(text)
            continue
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--{name} {path}: cannot be written: {error.strerror}") from error
        print(f"{path}: {len(text.encode()) / 1e6:.1f} MB", file=sys.stderr)
    return comparison
