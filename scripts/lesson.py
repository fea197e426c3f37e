"""The measurements of the lesson "Where gradients die, measured", each of them under a minute on one core.

python scripts/lesson.py chain            # prints what is measured, draws runs/lesson/chain.png
python scripts/lesson.py --list
python scripts/lesson.py --write          # all of them, into docs/lesson: what the pages say is printed
python scripts/lesson.py --write chain    # only this one
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

DOCS = ROOT / "docs" / "lesson"
MEASURED = DOCS / "measured.json"
LANGUAGES = "en", "vi"
PAGES = ("neuron", "activations", "scale", "highway", "training", "parts", "cause")


def steps() -> dict[str, Callable[[], object]]:
    """Every step by its name, in the lesson's order."""
    found: dict[str, Callable[[], object]] = {}
    for page in PAGES:
        found |= importlib.import_module(f"scripts.lesson_steps.{page}").STEPS
    return found


def keep(name: str, text: str, commit: str) -> None:
    """Keep what a step printed in measured.json, and put it where the pages of both languages quote it."""
    from scripts.pages import write_between

    found = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    found[name] = {"commit": commit, "text": text}
    found = {step: found[step] for step in steps() if step in found}
    MEASURED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for page in pages():
        for step in found:
            if f"<!-- lesson: {step} -->" in page.read_text(encoding="utf-8"):
                write_between(page, f"lesson: {step}", quoted(found[step]))


def pages() -> list[Path]:
    """Those of the lesson, in both languages."""
    return [page for language in LANGUAGES for page in sorted((DOCS / language).glob("*.md"))]


def quoted(measured: dict[str, str]) -> str:
    """What stands on a page between a step's marks."""
    return f"```text\n{measured['text']}\n```\n\n*commit {measured['commit']}*"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps that are named."""
    parser = argparse.ArgumentParser(description="The measurements of the lesson.")
    parser.add_argument("steps", nargs="*", metavar="STEP")
    parser.add_argument("--out", type=Path, default=Path("runs/lesson"), help="where the pictures go")
    parser.add_argument("--list", action="store_true", help="name the steps")
    parser.add_argument("--write", action="store_true", help="into docs/lesson; all steps if none is named")
    options = parser.parse_args(arguments)
    known = steps()
    if options.list or not (options.steps or options.write):
        print("\n".join(f"{name:15} {step.__doc__}" for name, step in known.items()))
        return 0
    if unknown := [name for name in options.steps if name not in known]:
        print(f"error: no step {unknown[0]}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    import torch

    from detector.training.provenance import provenance
    from scripts.lesson_steps.common import Found

    torch.set_num_threads(1)  # sums come out the same on every machine
    folder = DOCS / "img" if options.write else options.out
    folder.mkdir(parents=True, exist_ok=True)
    made = provenance(outputs=["docs/lesson"])
    commit = f"{str(made['commit'])[:7]}{'-dirty' if made['dirty'] else ''}" if options.write else ""
    for name in options.steps or known:
        found = known[name]()
        assert isinstance(found, Found)
        print(f"{found.text}\n")
        found.figure.savefig(folder / f"{name}.png")
        print(f"{folder / name}.png")
        if options.write:
            keep(name, found.text, commit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
