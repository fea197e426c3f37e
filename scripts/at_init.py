"""Measure V before the first step: of the suites `depth` and `init`, and of every ablation in bf16.

    python scripts/at_init.py               # all: twelve minutes of one core
    python scripts/at_init.py depth init    # some: their tables are written anew

It is one forward and backward pass a seed, of COCO8's four training images. The tables are in
docs/findings.md and, that of bf16, in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.ablations import ABLATIONS  # noqa: E402
from scripts.pages import write_between  # noqa: E402
from scripts.yolos import interval, source, vanishing_index  # noqa: E402

SEEDS = 5
SUITES = ROOT / "ablations" / "suites"
PAGES = {
    "depth": ROOT / "docs" / "findings.md",
    "init": ROOT / "docs" / "findings.md",
    "bf16": ROOT / "benchmarks" / "README.md",
}


def suite_values(name: str) -> dict[str, list[float]]:
    """V of each cell of a suite, a seed each."""
    from detector.tools.suites.suite import expand, load_suite

    found: dict[str, list[float]] = {}
    for cell in expand(load_suite(SUITES / f"{name}.yaml"), seeds=SEEDS):
        found.setdefault(cell.ablation, []).append(vanishing_index(cell.config, cell.seed))
    return found


def depth() -> str:
    """A row a network, a column a depth; cells are named by both, `plain_silu_81`."""
    values = suite_values("depth")
    names, depths = (dict.fromkeys(name.rpartition("_")[at] for name in values) for at in (0, 2))
    head = [f"| V at init | {' | '.join(depths)} convolutions |", "|---|" + "--:|" * len(depths)]
    return "\n".join(head + [
        f"| `{name}` | {' | '.join(interval(values[f'{name}_{depth}'], 2, '+') for depth in depths)} |"
        for name in names
    ])  # fmt: skip


def init() -> str:
    """A row an initialisation, with and without batch norm; cells are named `he`, `he_no_batchnorm`."""
    values = suite_values("init")
    rows = [name for name in values if f"{name}_no_batchnorm" in values]
    head = ["| V at init, no shortcut | with batch norm | without |", "|---|--:|--:|"]
    for name in rows:
        both = (interval(values[cell], 2, "+") for cell in (name, f"{name}_no_batchnorm"))
        head.append(f"| `{name}` | {' | '.join(both)} |")
    return "\n".join(head)


def bf16() -> str:
    """A row for each ablation that begins as another network than those above it."""
    from detector.config.loading import load_config

    lines = ["| ablation | V in fp32 | bf16 − fp32, mean | largest |", "|---|--:|--:|--:|"]
    measured: list[object] = []
    for name in ABLATIONS:
        config = load_config("coco8" if name == "baseline" else name).config
        network = config.model.model_copy(update={"freeze": "none"})
        if network in measured:
            continue
        measured.append(network)
        pairs = [
            (vanishing_index(config, seed), vanishing_index(config, seed, "bf16")) for seed in range(SEEDS)
        ]
        apart = [other - one for one, other in pairs]
        full, mean = interval((one for one, _ in pairs), 2, "+"), f"{statistics.mean(apart):+.3f}"
        largest = max(map(abs, apart))
        lines.append(f"| `{name}` | {full} | {mean} | {largest:.3f} |".replace("-", "−"))
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {"depth": depth, "init": init, "bf16": bf16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the tables that are named, and write them."""
    from detector.training.provenance import provenance

    parser = argparse.ArgumentParser(description="Measure V before the first step, and write its tables.")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; default: all")
    named = parser.parse_args(arguments).tables or list(TABLES)
    if unknown := set(named) - set(TABLES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}")
    outputs = [str(page.relative_to(ROOT)) for page in dict.fromkeys(PAGES.values())]
    for name in named:
        text = TABLES[name]()
        facts = provenance("cpu", outputs=outputs)
        write_between(PAGES[name], f"table: at_init {name}", f"{text}\n\nn = {SEEDS}. {source([facts])}")
        print(text, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
