"""Ask of five ablations whether it is the gradient, and write the table of shares into the documentation.

    python scripts/why.py                 # runs what is missing (about half an hour on 2 cores)
    python scripts/why.py --report-only   # only writes, from the answers that are there

On shapes with five seeds; on COCO8 one ablation, whose data cannot answer. Writes docs/findings.md, a
short table in README.md, and the picture docs/why.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ABLATIONS = ("no_residual", "plain_silu", "sigmoid", "no_batchnorm", "plain_sigmoid")
SHARES = ("forward", "backward", "neck and head", "remainder")
PICTURED = "plain_sigmoid"  # loses most of its gradient
SEEDS = 5


def interval(estimate: Mapping[str, Any]) -> str:
    """A mean and its 95 % interval, for a cell of a Markdown table."""
    if not estimate["n"]:
        return "–"
    text = f"{estimate['mean']:+.2f}"
    if estimate["n"] > 1:
        text += f"<br>\\[{estimate['low']:+.2f}, {estimate['high']:+.2f}\\]"
    return text.replace("-", "−")


def table(answers: Iterable[Mapping[str, Any]]) -> str:
    """A row an ablation, and below it the control and what it was measured with."""
    columns = (
        "ablation",
        "gap",
        *SHARES,
        "its curve on the baseline",
        "own curve less the baseline's",
        "n",
        "more than half",
    )
    lines = [f"| {' | '.join(columns)} |", "|---|" + "--:|" * (len(columns) - 2) + "---|"]
    controls, commits = set(), set()
    for found in answers:
        answer = found["answer"]
        shares = [interval(answer["shares"].get(name, {"n": 0})) for name in SHARES]
        effects = [interval(answer[name]) for name in ("gap", "sufficiency", "necessity")]
        cells = [f"`{found['ablation']}`", effects[0], *shares, *effects[1:], str(answer["gap"]["n"])]
        lines.append(f"| {' | '.join(cells)} | {answer['main'] or 'not decided'} |")
        control = answer["control"]
        controls.add(f"{'passed' if control['passed'] else 'failed'}: {control['says']}")
        commits.add(found["made"]["commit"][:7] + ("-dirty" if found["made"]["dirty"] else ""))
    how = "Training loss, mean of the last 20 steps; differences with a 95 % t interval over n paired seeds"
    return "\n".join([
        *lines, "", f"Positive control {'; '.join(sorted(controls))}.",
        f"{how}; commit {', '.join(sorted(commits))}.",
    ])  # fmt: skip


def short(answers: Iterable[Mapping[str, Any]]) -> str:
    """The README's: what an ablation costs, and whose it is."""
    lines = [
        "| ablation | costs, in loss | by its forward pass | by its gradient | its curve on the baseline |",
        "|---|--:|--:|--:|--:|",
    ]
    for found in answers:
        answer, shares = found["answer"], found["answer"]["shares"]
        effects = answer["gap"], shares["forward"], shares["backward"], answer["sufficiency"]
        lines.append(f"| `{found['ablation']}` | {' | '.join(map(interval, effects))} |")
    return "\n".join(lines)


def parts(answers: Iterable[Mapping[str, Any]]) -> str:
    """What is lost in the trunk alone, in neck and head alone, and by both together beyond the sum."""
    from detector.analysis.statistics import estimate

    lines = [
        "| ablation | of the trunk | of neck and head | together, more than the sum | n |",
        "|---|--:|--:|--:|--:|",
    ]
    for found in answers:
        if not {"trunk", "rest"} <= found["outcomes"].keys():
            continue  # it has nothing to strip in neck and head
        by_role = {
            role: {s: y["loss"] for s, y in seeds.items()} for role, seeds in found["outcomes"].items()
        }
        y = {role: by_role[role] for role in ("baseline", "trunk", "rest", "ablation")}
        seeds = sorted(set.intersection(*(set(cell) for cell in y.values())))
        effects = [
            [y["trunk"][s] - y["baseline"][s] for s in seeds],
            [y["rest"][s] - y["baseline"][s] for s in seeds],
            [y["ablation"][s] - y["trunk"][s] - y["rest"][s] + y["baseline"][s] for s in seeds],
        ]
        cells = " | ".join(interval(asdict(estimate(effect))) for effect in effects)
        lines.append(f"| `{found['ablation']}` | {cells} | {len(seeds)} |")
    return "\n".join(
        [*lines, "", "Training loss, mean of the last 20 steps; 95 % t intervals, paired by seed."]
    )


def answers(out: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The stored answers that are there."""
    paths = [out / f"{name}.json" for name in names]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, then write."""
    from scripts.factorial import detector
    from scripts.pages import write_between
    from scripts.pictures import crossed

    parser = argparse.ArgumentParser(description="Ask of five ablations whether it is the gradient.")
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="where the runs are kept")
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    shapes, coco8 = options.out / "why-shapes", options.out / "why-coco8"
    if not options.report_only:
        asked = [(name, "shapes", shapes) for name in ABLATIONS] + [(ABLATIONS[0], "coco8", coco8)]
        for name, data, out in asked:
            arguments = (name, f"--seeds={SEEDS}", f"--on={data}", f"--jobs={options.jobs}", f"--out={out}")
            if status := detector("why", *arguments, "model.scope=all"):  # neck and head have a share, too
                return status
    found = answers(shapes, ABLATIONS)
    if not found:
        print(f"{shapes}: no answers yet", file=sys.stderr)
        return 2
    text = table(found)
    for refused in answers(coco8, ABLATIONS[:1]):
        answer = refused["answer"]
        text += f"\n\nOn COCO8, `{refused['ablation']}`, n = {answer['gap']['n']}: {answer['says']}"
    write_between(ROOT / "docs" / "findings.md", "table: why", text)
    write_between(ROOT / "docs" / "findings.md", "table: scope", parts(found))
    write_between(ROOT / "README.md", "table: shares", short(found))
    for answer in found:
        if answer["ablation"] == PICTURED:
            crossed(answer).savefig(ROOT / "docs" / "why.png", dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(main())
