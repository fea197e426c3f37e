"""Strip YOLOs as ultralytics describes them, and write the tables of docs/any_yolo.md.

    python scripts/yolos.py --init          # V at initialisation of four networks (10 minutes of one core)
    python scripts/yolos.py                 # the suite yolo26 on three data sets (55 minutes of one core)
    python scripts/yolos.py --on bccd       # one of them; --suite yolov8 or yolo11 for another network
    python scripts/yolos.py --report-only   # only writes, from the runs that are there

A run that has finished is not run again, so an interrupted measurement goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "any_yolo.md"
NETWORKS = "yolov8n", "yolo11n", "yolo12n", "yolo26n"
SEEDS = 5
SCOPES = {"trunk": "backbone alone", "all": "everywhere"}
# What the suite is run on: a title, and what that changes in it.
UNSEEN = "train.eval_train=false", "train.batch=8", "train.warmup_steps=50"
DATA: dict[str, tuple[str, tuple[str, ...]]] = {
    "coco8": ("COCO8, memorised: 300 steps at 160 px", ()),
    "tutorial": (
        "COCO8, the 10 epochs of the usual tutorial: 10 steps at 160 px",
        ("train.steps=null", "train.epochs=10", "train.warmup_steps=3", "gradients.every=1"),
    ),
    "shapes": (
        "shapes, unseen images: 480 steps at 96 px",
        ("data.path=datasets/shapes.yaml", "data.image_size=96", "train.steps=480", *UNSEEN),
    ),
    "bccd": (
        "BCCD, one's own data: 10 epochs at 160 px",
        ("data.path={datasets}/bccd/data.yaml", "train.steps=null", "train.epochs=10", *UNSEEN),
    ),
}
CHEAP = "coco8", "tutorial", "shapes"
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
    """A Markdown table with a row a cell; what no run has is left out."""
    from detector.rundir import RunDir
    from scripts.ablations import spread, verdicts

    found = {
        name: [RunDir(run).scan_summary()[0] for run in sorted(runs.glob(f"{name}-s*"))]
        for name in suite.cells
    }
    every = [summary for summaries in found.values() for summary in summaries if summary.get("commit")]
    columns = {name: c for name, c in COLUMNS.items() if any(s.get(c[0]) is not None for s in every)}
    lines = [
        f"| stripped | verdict at init | {' | '.join(columns)} | n |",
        "|---|---|" + "--:|" * (len(columns) + 1),
    ]
    for name, summaries in found.items():
        sound = [summary for summary in summaries if summary.get("status") == "finished"]
        broken = sum(summary.get("status") == "diverged" for summary in summaries)
        if not sound and not broken:
            continue
        ended = [s for s in summaries if s.get("status") in ("finished", "diverged")]
        cells = [
            spread((s[key] for s in (ended if key.endswith("_init") else sound)), digits, sign)
            for key, digits, sign in columns.values()
        ]
        n = str(len(sound)) + (f" ({broken} diverged)" if broken else "")
        verdict = verdicts(ended, "gradient/verdict_init")
        lines.append(f"| `{name}` | {verdict} | {' | '.join(cells)} | {n} |")
    return "\n".join(lines) + f"\n\n{_source(every)}"


def _source(summaries: Sequence[dict[str, Any]]) -> str:
    commits = {str(s["commit"])[:7] + ("-dirty" if s["dirty"] else "") for s in summaries}
    versions = {
        f"torch {s['versions']['torch']}, ultralytics {s['versions']['ultralytics']}" for s in summaries
    }
    return (
        f"Mean ± standard deviation over n seeds; commit {', '.join(sorted(commits))}; "
        f"{'; '.join(sorted(versions))}."
    )


def at_initialisation(network: str, cell: Sequence[str], seed: int) -> float:
    """V of one forward and backward pass of COCO8's four training images at 192 px."""
    from detector.config.loading import load_config
    from detector.data.loader import Loader
    from detector.data.sources import load_dataset
    from detector.gradients.recorder import GradientRecorder
    from detector.models.build import build_model
    from detector.models.loss import DetectionLoss
    from detector.rows import Key
    from detector.runtime.random_state import seed_everything

    changes = [f"model.pretrained={network}.yaml", "data.image_size=192", f"train.seed={seed}", *cell]
    config = load_config(ROOT / "configs" / "coco8.yaml", changes).config
    dataset = load_dataset(config.data.path, "raise")
    seed_everything(seed)
    model = build_model(config.model, dataset.names).model.train()
    loader = Loader(dataset.splits["train"], config.data)
    batch = next(islice(loader.train_batches(batch=4, seed=seed, stop=1, workers=0), 1))
    with GradientRecorder(model.backbone_layers()) as recorder:
        DetectionLoss(model, config.train, 1)(
            model(batch.images.float() / 255), batch.targets()
        ).total.backward()
    return recorder.measure()[Key.VANISHING_INDEX]


def init_rows(cells: dict[str, list[str]]) -> Iterator[str]:
    """The lines of the table of initialisations, as they are measured."""
    from scripts.ablations import spread

    yield f"| network | stripped | {' | '.join(f'`{cell}`' for cell in cells)} |"
    yield "|---|---|" + "--:|" * len(cells)
    for network in NETWORKS:
        for scope, where in SCOPES.items():
            found = []
            for cell in cells.values():
                changed = [*cell, f"model.scope={scope}"]
                values = [at_initialisation(network, changed, seed) for seed in range(SEEDS)]
                found.append(spread(values, 2, "+"))
            line = f"| {network} | {where} | {' | '.join(found)} |"
            print(line, flush=True)
            yield line


def write_init() -> None:
    """Measure V at initialisation, and write its table."""
    from detector.jobs.cell import written
    from detector.tools.suites.suite import load_suite
    from detector.training.provenance import provenance
    from scripts.pages import write_between

    suite = load_suite(ROOT / "ablations" / "suites" / "yolo26.yaml")
    cells = {
        name: [f"{key}={written(value.value)}" for key, value in delta.items()]
        for name, delta in suite.cells.items()
    }
    lines = "\n".join(init_rows(cells))
    facts = provenance("cpu")
    text = f"{lines}\n\nn = {SEEDS} seeds. COCO8's four images at 192 px. {_source([facts])}"
    write_between(PAGE, "table: yolo init", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, then write."""
    from detector.data.sources import datasets_dir
    from detector.tools.suites.suite import load_suite
    from scripts.factorial import detector
    from scripts.pages import write_between

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
    for data in options.on:
        runs = options.out / f"{options.suite}_{data}"
        changes = [change.format(datasets=datasets_dir()) for change in DATA[data][1]]
        if not options.report_only and (
            status := detector("ablate", str(file), *changes, f"--jobs={options.jobs}", f"--out={runs}")
        ):
            return status
        if not runs.is_dir():
            print(f"{runs}: no runs yet", file=sys.stderr)
            continue
        text = f"{DATA[data][0]}.\n\n{table(load_suite(file), runs)}"
        write_between(PAGE, f"table: {options.suite} {data}", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
