"""Strip YOLOs as ultralytics describes them, and write the tables of docs/any_yolo.md and the README's lines.

    python scripts/yolos.py                 # the suite yolo26 on COCO8 and shapes: an hour of one core
    python scripts/yolos.py --on bccd       # on one of them: 20 minutes; --suite yolov8 or yolo11
    python scripts/yolos.py --init          # V at initialisation of four networks: 3 minutes
    python scripts/yolos.py --report-only   # only writes, from the runs that are there

A run that has finished is not run again, so an interrupted measurement goes on where it stopped. A run notes
whether all files were committed: commit what one call has written before the next.

The budget is small, so that five seeds of six cells take an hour: 400 steps on shapes and 8 epochs on BCCD
tell cells apart, and are far from what these networks reach in the end.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from detector.config.schema import Config

PAGE, README = ROOT / "docs" / "any_yolo.md", ROOT / "README.md"
SUMMARISED = "table: yolo26 shapes"  # the table whose numbers are in the README
IN_SENTENCES = "baseline", "no_residual", "no_batchnorm", "plain_silu"
NETWORKS = "yolov8n", "yolo11n", "yolo12n", "yolo26n"
SEEDS = 5
SCOPES = {"trunk": "backbone alone", "all": "everywhere"}
# What the suite is run on: a title, and what that changes in it.
UNSEEN = "train.eval_train=false", "train.batch=8", "train.warmup_steps=50"
DATA: dict[str, tuple[str, tuple[str, ...]]] = {
    "coco8": ("COCO8, memorised: 300 steps at 160 px, batch 4", ()),
    "tutorial": (
        "COCO8, the 10 epochs of the usual tutorial: 10 steps at 160 px, batch 4",
        ("train.steps=null", "train.epochs=10", "train.warmup_steps=3", "gradients.every=1"),
    ),
    "shapes": (
        "shapes, unseen images: 400 steps at 96 px, batch 8",
        ("data.path=datasets/shapes.yaml", "data.image_size=96", "train.steps=400", *UNSEEN),
    ),
    "bccd": (
        "BCCD, one's own data: 8 epochs of 205 images at 128 px, batch 8",
        (
            "data.path={datasets}/bccd/data.yaml",
            "data.image_size=128",
            "train.steps=null",
            "train.epochs=8",
            *UNSEEN,
        ),
    ),
}
CHEAP = "coco8", "tutorial", "shapes"
ENDED = "finished", "diverged"
COLUMNS = {
    "V at init": ("gradient/vanishing_index_init", 2, "+"),
    "V late": ("gradient/vanishing_index", 2, "+"),
    "I late": ("signal/input_dependence", 2, ""),
    "probe AUC P3 at init": ("signal/probe_auc_p3_init", 2, ""),
    "loss": ("train/loss", 2, ""),
    "train mAP50-95": ("train/mAP50-95", 3, ""),
    "val mAP50-95": ("val/mAP50-95", 3, ""),
}


def table(suite: Any, runs: Path) -> str:
    """A Markdown table with a row a cell, "" if no run has ended; what no run has is left out."""
    from detector.rundir import RunDir
    from scripts.ablations import verdicts

    found = {
        name: [RunDir(run).scan_summary()[0] for run in sorted(runs.glob(f"{name}-s*"))]
        for name in suite.cells
    }
    ended = {name: [s for s in every if s.get("status") in ENDED] for name, every in found.items()}
    whole = [summary for summaries in ended.values() for summary in summaries]
    if not whole:
        return ""
    columns = {name: c for name, c in COLUMNS.items() if any(s.get(c[0]) is not None for s in whole)}
    lines = [
        f"| stripped | verdict at init | {' | '.join(columns)} | n |",
        "|---|---|" + "--:|" * (len(columns) + 1),
    ]
    for name, summaries in ended.items():
        if not summaries:
            continue
        sound = [summary for summary in summaries if summary["status"] == "finished"]
        cells = [
            interval((s.get(key) for s in (summaries if key.endswith("_init") else sound)), digits, sign)
            for key, digits, sign in columns.values()
        ]
        broken = len(summaries) - len(sound)
        n = str(len(sound)) + (f" ({broken} diverged)" if broken else "")
        verdict = verdicts(summaries, "gradient/verdict_init")
        lines.append(f"| `{name}` | {verdict} | {' | '.join(cells)} | {n} |")
    return "\n".join(lines) + f"\n\n{source(whole)}"


def interval(values: Iterable[float | None], digits: int, sign: str = "") -> str:
    """The mean, and half the width of its 95 % interval (Student's t); what is not finite is left out."""
    from detector.analysis.statistics import estimate

    found = estimate([math.nan if value is None else value for value in values])
    if not found.n:
        return "–"
    half = f" ± {found.high - found.mean:.{digits}f}" if found.n > 1 else ""
    return f"{found.mean:{sign}.{digits}f}{half}".replace("-", "−")


def source(summaries: Sequence[dict[str, Any]]) -> str:
    """What stands below a table: how its values were made, and by which commit."""
    commits = {str(s["commit"])[:7] + ("-dirty" if s["dirty"] else "") for s in summaries}
    versions = {
        f"torch {s['versions']['torch']}, ultralytics {s['versions']['ultralytics']}, {s['device']}"
        for s in summaries
    }
    return (
        "Mean over n seeds ± half of its 95 % interval (Student's t); random weights; "
        f"commit {', '.join(sorted(commits))}; {'; '.join(sorted(versions))}."
    )


def at_initialisation(network: str, cell: Sequence[str], seed: int) -> float:
    """V of COCO8's four training images at 192 px, before any step."""
    from detector.config.loading import load_config

    changes = [f"model.pretrained={network}.yaml", "data.image_size=192", f"train.seed={seed}", *cell]
    return vanishing_index(load_config(ROOT / "configs" / "coco8.yaml", changes).config, seed)


def vanishing_index(config: Config, seed: int, precision: Literal["fp32", "bf16"] = "fp32") -> float:
    """V, in decades, of a network that no step has changed yet.

    Args:
        config: the network, and the size of the images.
        seed: of the weights and of the order of the images.
        precision: what the forward pass, and so the backward pass, computes in.
    """
    import torch

    from detector.data.loader import Loader
    from detector.data.sources import load_dataset
    from detector.gradients.recorder import GradientRecorder
    from detector.models.build import build_model
    from detector.models.loss import DetectionLoss
    from detector.rows import Key
    from detector.runtime.device import PRECISIONS, autocast
    from detector.runtime.random_state import seed_everything

    dataset = load_dataset(config.data.path)
    seed_everything(seed)
    model = build_model(config.model, dataset.names).model.train()
    loader = Loader(dataset.splits["train"], config.data)
    batch = next(islice(loader.train_batches(batch=4, seed=seed, stop=1, workers=0), 1))
    with GradientRecorder(model.backbone_layers()) as recorder:
        with autocast(torch.device("cpu"), PRECISIONS[precision]):
            preds = model(batch.images.float() / 255)
        DetectionLoss(model, config.train, 1)(preds, batch.targets()).total.backward()
    return recorder.measure()[Key.VANISHING_INDEX]


def init_rows(cells: dict[str, list[str]]) -> Iterator[str]:
    """The lines of the table of initialisations, as they are measured."""
    yield f"| network | stripped | {' | '.join(f'`{cell}`' for cell in cells)} |"
    yield "|---|---|" + "--:|" * len(cells)
    for network in NETWORKS:
        for scope, where in SCOPES.items():
            found = []
            for cell in cells.values():
                changed = [*cell, f"model.scope={scope}"]
                values = [at_initialisation(network, changed, seed) for seed in range(SEEDS)]
                found.append(interval(values, 2, "+"))
            line = f"| {network} | {where} | {' | '.join(found)} |"
            print(line, flush=True)
            yield line


def write_init() -> None:
    """Measure V at initialisation, and write its table."""
    from detector.config.safe_yaml import written
    from detector.tools.suites.suite import load_suite
    from detector.training.provenance import provenance
    from scripts.pages import write_between

    suite = load_suite(ROOT / "ablations" / "suites" / "yolo26.yaml")
    cells = {
        name: [f"{key}={written(value.value)}" for key, value in delta.items()]
        for name, delta in suite.cells.items()
    }
    cells["chain"] = ["model.shortcut=chain"]  # the concatenations are skips as well
    cells["chain, no_batchnorm"] = [*cells["chain"], "model.norm=none"]
    lines = "\n".join(init_rows(cells))
    facts = provenance("cpu", outputs=["docs/any_yolo.md", "README.md"])
    told = f"n = {SEEDS}. COCO8's four images at 192 px. `chain`: no additions and concatenations in blocks."
    text = f"{lines}\n\n{told} {source([facts])}"
    write_between(PAGE, "table: yolo init", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, then write."""
    from detector.data.sources import datasets_dir
    from detector.tools.suites.suite import load_suite
    from scripts.factorial import detector

    parser = argparse.ArgumentParser(description="Strip YOLOs, and write the tables of docs/any_yolo.md.")
    parser.add_argument("--init", action="store_true", help="only measure V at initialisation")
    parser.add_argument("--suite", default="yolo26", choices=["yolov8", "yolo11", "yolo26"])
    parser.add_argument("--on", nargs="+", default=list(CHEAP), choices=list(DATA))
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="where the suites' runs are kept")
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    if options.init:
        write_init()
        return 0
    file = ROOT / "ablations" / "suites" / f"{options.suite}.yaml"
    if not options.report_only:
        # All of it before a page changes: a run notes whether the files are committed.
        for data in options.on:
            changes = [change.format(datasets=datasets_dir()) for change in DATA[data][1]]
            runs = options.out / f"{options.suite}_{data}"
            if status := detector("ablate", str(file), *changes, f"--jobs={options.jobs}", f"--out={runs}"):
                return status
    for data in options.on:
        write_suite(load_suite(file), data, options.out / f"{options.suite}_{data}")
    return 0


def write_suite(suite: Any, data: str, runs: Path) -> None:
    """Put the table of a suite's runs into its place, or on the terminal if no page has one."""
    from scripts.pages import write_between

    if not (found := table(suite, runs)):
        print(f"{runs}: no runs yet", file=sys.stderr)
        return
    marker, text = f"table: {suite.name} {data}", f"{DATA[data][0]}.\n\n{found}"
    if f"<!-- {marker} -->" not in PAGE.read_text(encoding="utf-8"):
        print(text)
        return
    write_between(PAGE, marker, text)
    if marker == SUMMARISED:
        write_between(README, "yolo26", sentences(found))


def sentences(found: str) -> str:
    """What the README says, with the numbers of a table as `table` writes them."""
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in found.splitlines()[:-2]]
    cells = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    v, learnt = (
        [cells[name][column] if name in cells else "–" for name in IN_SENTENCES]
        for column in ("V at init", "val mAP50-95")
    )
    return (
        f"YOLO26n starts at V = {v[0]} decades over its backbone, without the additions of its residual "
        f"blocks at\n{v[1]}, without batch norm at {v[2]}, without both at {v[3]}.\n"
        f"Trained on shapes, its mAP50-95 on unseen images is {learnt[0]}, and in the same order\n"
        f"{learnt[1]}, {learnt[2]} and {learnt[3]} (n = {cells['baseline']['n']}, 95 % intervals; the "
        "backbone alone is stripped:\n[every table](docs/any_yolo.md))."
    )


if __name__ == "__main__":
    sys.exit(main())
