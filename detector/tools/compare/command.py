"""`detector compare`: runs in, tables and a web page out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detector.errors import UserError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_compare(commands: Commands) -> None:
    """Add the command to `detector`. Imports nothing heavy, for the sake of --help."""
    parser = commands.add_parser(
        "compare",
        help="runs side by side: a table over seeds, and a web page",
        description="Compare finished runs over their seeds, against a baseline. FILE may be - for stdout.",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="RUN_DIR", help="a run's directory, or a folder of them"
    )
    for name, what in (
        ("html", "one self-contained web page"),
        ("csv", "every number, unrounded, in long form"),
        ("latex", "tables for booktabs"),
        ("markdown", "tables for GitHub"),
    ):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=what)
    parser.add_argument("--baseline", metavar="NAME", help="the ablation the others are set against")
    parser.add_argument(
        "--allow-mixed", action="store_true", help="compare runs on different data, image sizes or steps"
    )
    parser.add_argument(
        "--wide", action="store_true", help="print every column and interval, wider than a terminal may be"
    )
    parser.set_defaults(run=run_compare)


def run_compare(options: argparse.Namespace) -> None:
    """Compare as the command line says.

    Raises:
        UserError: nothing to compare, runs that are not comparable, or a file that cannot be written.
    """
    from rich.console import Console

    from detector.tools.compare import table
    from detector.tools.compare.comparison import compare
    from detector.tools.compare.page import page
    from detector.tools.compare.runs import load_runs

    runs, left_out = load_runs(options.paths)
    comparison = compare(runs, left_out, baseline=options.baseline, allow_mixed=options.allow_mixed)
    writers = {"html": page, "csv": table.csv_text, "latex": table.latex, "markdown": table.markdown}
    targets = {name: path for name in writers if (path := getattr(options, name)) is not None}
    to_stdout = Path("-") in targets.values()
    if not to_stdout:
        console = Console()
        if not console.is_terminal:
            console = Console(width=200)  # in a file, a table squeezed into 80 columns is of no use
        table.print_console(comparison, console, wide=options.wide)
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
