"""Measure this project beside what people use today, and write the table.

    make bench                                   # every topic but the longest; the table keeps their rows
    python benchmarks/bench.py bccd factorial ci # those: an hour on two cores
    python benchmarks/bench.py startup memory    # some: their rows replace those of the last time
    python benchmarks/bench.py --avx2 step       # as on a CPU that has neither AVX-512 nor bf16
    python benchmarks/bench.py --list

A topic is a module of benchmarks/speed with a function `measure() -> list[Row]`. Each is run in a process
of its own, on one core and one thread; those that are about more cores take them, and their rows say so.
Everything measured goes to benchmarks/results.json, with the machine, the versions and the commit; from that
the table is written into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.process import processor  # noqa: E402
from benchmarks.speed.row import Row  # noqa: E402
from scripts.pages import write_between  # noqa: E402

TOPICS = (
    "telemetry", "memorise", "step", "epoch", "validation", "data", "startup", "memory", "scan", "bccd",
    "factorial", "ci", "gpu", "stack", "growth",
)  # fmt: skip
LONG = "bccd", "factorial", "ci"  # ten minutes and more each: only measured when they are named
# What PyTorch's libraries read when they are loaded: its own kernels, oneDNN, MKL.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
RESULTS, PAGE = ROOT / "benchmarks" / "results.json", ROOT / "benchmarks" / "README.md"


def main() -> None:
    """Measure the topics asked for and write the table."""
    parser = argparse.ArgumentParser(description="Measure this project beside what people use today.")
    named = f"of {', '.join(TOPICS)}; default: all but {', '.join(LONG)}"
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=named)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="which one to use")
    parser.add_argument("--avx2", action="store_true", help="both sides without AVX-512 and bf16")
    parser.add_argument("--report-only", action="store_true", help="measure nothing, only write the table")
    parser.add_argument("--list", action="store_true", help="name the topics")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        print("\n".join(TOPICS))
    elif options.child:
        measure_here(options.topics[0], options.child)
    else:
        if unknown := set(options.topics) - set(TOPICS):
            parser.error(f"no such topic: {', '.join(sorted(unknown))}")
        default = [topic for topic in TOPICS if topic not in LONG]
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        for topic in () if options.report_only else options.topics or default:
            results[topic] = measure(topic, options.core, AVX2 if options.avx2 else {})
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        text = table(results)
        write_between(PAGE, "table: bench", text)
        print(text)


def measure(topic: str, core: int, limits: Mapping[str, str]) -> dict[str, Any]:
    """Run one topic in a process of its own; its rows, and what they were measured on.

    Args:
        topic: of `TOPICS`.
        core: on which it runs.
        limits: variables that keep libraries from some of the processor's instructions.
    """
    print(f"measuring: {topic}", file=sys.stderr, flush=True)
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", WANDB_MODE="offline",
                       WANDB_SILENT="true", **limits)  # fmt: skip
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else ours would be compiled anew at each start
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        process = subprocess.Popen(
            [sys.executable, __file__, topic, "--child", str(out)], cwd=folder, env=environment
        )
        os.sched_setaffinity(process.pid, {core})
        if process.wait():
            raise SystemExit(f"{topic} could not be measured")
        return dict(json.loads(out.read_text()))


def measure_here(topic: str, out: Path) -> None:
    """Measure one topic in this process and write its rows to a file."""
    from detector.training.provenance import provenance

    found = provenance(outputs=[str(path.relative_to(ROOT)) for path in (RESULTS, PAGE)])
    made = {key: found[key] for key in ("commit", "dirty", "versions", "platform", "cpus")}
    made["processor"] = processor()
    rows: list[Row] = importlib.import_module(f"benchmarks.speed.{topic}").measure()
    out.write_text(json.dumps({"rows": [asdict(row) for row in rows], "made": made}))


def table(results: dict[str, Any]) -> str:
    """Markdown: a line a row, medians with the smallest and largest measurement."""
    lines = [
        "| what | ours | theirs | peer | value | target | met | n |",
        "|---|--:|--:|---|--:|--:|---|--:|",
    ]
    for topic in TOPICS:
        for row in (Row(**row) for row in results.get(topic, {"rows": []})["rows"]):
            shown = figure(row.value, row.target)
            value = f"{shown} {row.unit}" if row.absolute else f"{shown}×"
            target = f"{'≥' if row.at_least else '≤'} {row.target:g}{f' {row.unit}' if row.absolute else '×'}"
            lines.append(
                f"| {row.what}{f'<br>*{row.note}*' if row.note else ''} | {spread(row.ours, row.unit)} "
                f"| {spread(row.theirs, row.unit)} | {row.peer} | {value} | {target} "
                f"| {'yes' if row.met else '**no**'} | {min(len(v) for v in (row.ours, row.theirs) if v)} |"
            )
    made = {topic: results[topic]["made"] for topic in TOPICS if results.get(topic, {}).get("rows")}
    commits = sorted({str(one["commit"])[:7] + ("+" if one["dirty"] else "") for one in made.values()})
    versions = next(iter(made.values()))["versions"] if made else {}
    machine = f"one core of {os.cpu_count()}{on_what(made)}"
    lines += ["", f"Median (smallest – largest of n); {machine}, torch {versions.get('torch')}, "
              f"ultralytics {versions.get('ultralytics')}, wandb {versions.get('wandb')}, "
              f"commit {', '.join(commits)}."]  # fmt: skip
    return "\n".join(lines)


def on_what(made: Mapping[str, Mapping[str, Any]]) -> str:
    """The processor in brackets; where there are several, with the topics of all but the most usual one."""
    topics: dict[str, list[str]] = {}
    for topic, one in made.items():
        if one.get("processor"):
            topics.setdefault(one["processor"], []).append(topic)
    if not topics:
        return ""
    usual, *others = sorted(topics, key=lambda processor: -len(topics[processor]))
    named = [usual, *(f"{', '.join(topics[other])}: {other}" for other in others)]
    return f" ({'; '.join(named)})"


def figure(value: float, target: float | None = None) -> str:
    """Three digits, no exponent; another digit where it would look like the target that it misses."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    text = f"{value:.3g}"
    return f"{value:.4g}" if target is not None and float(text) == target != value else text


def spread(values: list[float] | tuple[float, ...], unit: str) -> str:
    """`median unit (smallest – largest)`, or a dash where nothing was measured."""
    if not values:
        return "–"
    return f"{figure(median(values))} {unit} ({figure(min(values))} – {figure(max(values))})"


if __name__ == "__main__":
    main()
