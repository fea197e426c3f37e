"""Run the 2³ factorial on COCO8 and on shapes, and write what the documentation says of it.

    python scripts/factorial.py                 # runs what is missing (about half an hour on 2 cores)
    python scripts/factorial.py --report-only   # only writes

Writes docs/factorial_coco8.md and docs/factorial_shapes.md (what `detector compare --markdown` prints), the
effects and the cells on shapes in docs/findings.md, and docs/report.png, a picture of the web page, if
Chromium is there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FINDINGS = ROOT / "docs" / "findings.md"
METRICS = "train/loss", "val/mAP50-95", "val/mAP50"
SUITES = {"coco8": "factorial", "shapes": "factorial_shapes"}


def detector(*arguments: str) -> int:
    """One `detector` command, shown on the terminal."""
    return subprocess.run([sys.executable, "-m", "detector", *arguments], cwd=ROOT, check=False).returncode


def block(markdown: str, title: str) -> str:
    """The table under a bold title that starts with `title`."""
    after = markdown.split(f"**{title}", 1)[1]
    return after.split("\n\n", 2)[1]


def photograph(page: Path, picture: Path) -> None:
    """The top of the page as a reader sees it, 1100 x 1500 pixels."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium: docs/report.png stays as it is", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   "--disable-background-networking", f"--user-data-dir={profile}", "--window-size=1100,1500",
                   "--virtual-time-budget=10000", f"--screenshot={picture}", page.as_uri()]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> int:
    """Run, then write."""
    from scripts.ablations import ABLATIONS, load, update_effects
    from scripts.ablations import table as ablation_table
    from scripts.pages import write_between

    parser = argparse.ArgumentParser(description="Run the factorials, and write what came of them.")
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="where the suites' runs are kept")
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args()
    for dataset, suite in SUITES.items():
        runs = options.out / suite
        if not options.report_only:
            status = detector(
                "ablate", f"ablations/suites/{suite}.yaml", f"--jobs={options.jobs}", f"--out={runs}"
            )
            if status:
                return status
        elif not runs.is_dir():
            print(f"{suite}: not run yet", file=sys.stderr)
            continue
        table, page = ROOT / "docs" / f"factorial_{dataset}.md", options.out / f"{suite}.html"
        if status := detector("compare", str(runs), f"--markdown={table}", f"--html={page}"):
            return status
        effects = block(table.read_text(encoding="utf-8"), "Factorial effects")
        write_between(FINDINGS, f"effects: {dataset}", effects)
        if dataset == "coco8":
            photograph(page.resolve(), ROOT / "docs" / "report.png")
        else:
            measured = {name: load(runs, f"{name}-s{{seed}}") for name in ABLATIONS}
            write_between(FINDINGS, f"table: {dataset}", ablation_table(measured, METRICS))
    update_effects(options.out, options.out / "ablations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
