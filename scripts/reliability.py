"""Measure how much can go wrong without harm, and write the table.

    make reliability                                     # every row: about an hour on two cores
    python scripts/reliability.py resumes layers      # some: they replace those of the last time
    python scripts/reliability.py --short             # quicker and less of each; printed, not written

Every figure is counted from what the project's own tests report when they are run here: pytest's junit XML,
hypothesis' statistics, coverage's and the mutation run's JSON. All of it goes to scripts/reliability.json,
with the commit, the versions and the command; the table is written into docs/reliability.md from that.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.pages import write_between  # noqa: E402

RESULTS, PAGE = ROOT / "scripts" / "reliability.json", ROOT / "docs" / "reliability.md"
MUTATIONS = ROOT / "scripts" / "mutation.json"
MARKER = "table: reliability"
KILLS = 20
FLIPS = 300  # as the test has it
# The cases of one phase of one property, as hypothesis prints them; older versions write "passing examples".
EXAMPLES = re.compile(r"- (\d+) passing\b[^,]*, (\d+) failing\b[^,]*, (?:and )?(\d+) invalid")


@dataclass
class Figure:
    """One row: what came out, and by which command."""

    shown: str  # for the table
    met: bool  # nothing failed
    command: str
    counts: dict[str, Any] = field(default_factory=dict)  # everything that was counted
    failures: list[str] = field(default_factory=list)  # which tests, by name


@dataclass(frozen=True)
class Outcome:
    """One run of pytest."""

    passed: int
    failures: list[str]
    skipped: list[str]
    output: str
    command: str
    recorded: dict[str, list[float]] = field(default_factory=dict)  # by record_property, of all tests

    @property
    def counts(self) -> dict[str, Any]:
        """What is kept of it."""
        return {"passed": self.passed, "failed": len(self.failures), "skipped": self.skipped}

    def figure(self, unit: str = "") -> Figure:
        """`passed/all`; what was skipped was not measured, and is said."""
        shown = f"{self.passed}/{self.passed + len(self.failures)}{unit}"
        if self.skipped:
            shown += f", {len(self.skipped)} skipped"
        return Figure(shown, self.met, self.command, self.counts, self.failures)

    @property
    def met(self) -> bool:
        """Whether something was tested and nothing failed."""
        return self.passed > 0 and not self.failures


def pytest(*arguments: str) -> Outcome:
    """Run some of the tests in a process of their own and count from pytest's own report.

    Raises:
        SystemExit: they could not be run.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        done = run([sys.executable, *command, f"--junitxml={report}"])
        if done.returncode not in (0, 1):  # 1: some failed
            raise SystemExit(f"{done.stdout[-3000:]}\npytest {' '.join(arguments)}: could not be run")
        passed, failures, skipped = 0, [], []
        recorded: dict[str, list[float]] = {}
        for case in ET.parse(report).iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            for found in case.iter("property"):
                recorded.setdefault(found.attrib["name"], []).append(float(found.attrib["value"]))
            if case.find("failure") is not None or case.find("error") is not None:
                failures.append(name)
            elif case.find("skipped") is not None:
                skipped.append(name)
            else:
                passed += 1
    return Outcome(passed, failures, skipped, done.stdout, " ".join(["pytest", *arguments]), recorded)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program from the project's folder, on one thread, and pass on nothing of a W&B account."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment = kept | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def resumes(short: bool, parallel: list[str]) -> Figure:
    """Real runs that are killed and go on."""
    kills = str(3 if short else KILLS)
    test = "tests/reliability/test_resume.py", "-k", "killed_run"
    return pytest(*test, "--kills", kills, *parallel).figure()


def layers(short: bool, parallel: list[str]) -> Figure:
    """NaN and Inf injected into a layer."""
    return pytest("tests/reliability/test_layers.py").figure()


def faults(short: bool, parallel: list[str]) -> Figure:
    """What fails around a run."""
    return pytest("tests/reliability/test_faults.py").figure()


def inputs(short: bool, parallel: list[str]) -> Figure:
    """Files that nobody should have to trust; none may ask for much memory, or for the network."""
    outcome = pytest("tests/hostile/test_corpus.py", "-k", "ends_well", *parallel)
    figure = outcome.figure()
    figure.counts["megabytes"] = max(outcome.recorded["megabytes"])
    figure.shown += f", at most {figure.counts['megabytes']:.0f} MB more than before, no connection"
    return figure


def flips(short: bool, parallel: list[str]) -> Figure:
    """Single bits of a checkpoint: noticed, or the same weights."""
    outcome = pytest("tests/runtime/test_checkpoint_check.py", "-k", "bit_that_flips")
    if not outcome.recorded:
        return outcome.figure()
    noticed, harmless = (int(outcome.recorded[key][0]) for key in ("noticed", "harmless"))
    shown = f"{noticed + harmless}/{FLIPS}: {noticed} noticed, {harmless} without effect"
    counts = outcome.counts | {"noticed": noticed, "harmless": harmless}
    return Figure(
        shown, outcome.met and noticed + harmless == FLIPS, outcome.command, counts, outcome.failures
    )


def changed(short: bool, parallel: list[str]) -> Figure:
    """Configuration, pixels and history, changed while a run was interrupted."""
    return pytest("tests/reliability/test_changed.py").figure()


def two(short: bool, parallel: list[str]) -> Figure:
    """Two of everything at once."""
    return pytest("tests/reliability/test_two.py", "tests/runtime/test_lock.py").figure()


def fuzz(short: bool, parallel: list[str]) -> Figure:
    """Bytes that nobody would write: counted is what hypothesis ran, not what it was asked for."""
    profile = "patient" if short else "long"
    files = "tests/hostile/test_fuzz.py", "tests/hostile/test_fuzz_files.py"
    outcome = pytest(*files, f"--hypothesis-profile={profile}",
                     "--hypothesis-show-statistics")  # fmt: skip
    passing, failing, invalid = examples(outcome.output)
    parsers = outcome.passed + len(outcome.failures)
    shown = f"{passing + failing:,} cases of {parsers} parsers, {failing} failed"
    counts = outcome.counts | {"cases": passing + failing, "failing": failing, "invalid": invalid}
    return Figure(shown, outcome.met and failing == 0, outcome.command, counts, outcome.failures)


def examples(output: str) -> tuple[int, int, int]:
    """Passing, failing and invalid examples in all, from what hypothesis prints."""
    found = [tuple(map(int, match)) for match in EXAMPLES.findall(output)]
    if not found:
        raise SystemExit("hypothesis printed no statistics")
    passing, failing, invalid = (sum(column) for column in zip(*found, strict=True))
    return passing, failing, invalid


def coverage(short: bool, parallel: list[str]) -> Figure:
    """Lines and branches of the package that the fast tests alone reach: with the slow ones it is more."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        arguments = "--cov=detector", "--cov-branch", f"--cov-report=json:{report}", "-m", "not slow"
        outcome = pytest(*arguments, *parallel)
        totals = json.loads(report.read_text())["totals"]
    branches = 100 * totals["covered_branches"] / totals["num_branches"]
    lines = 100 * totals["covered_lines"] / totals["num_statements"]
    shown = f"{branches:.1f} % of branches, {lines:.1f} % of lines"
    command = outcome.command.replace(f":{report}", "")
    return Figure(shown, outcome.met, command, outcome.counts | totals, outcome.failures)


def mutation(short: bool, parallel: list[str]) -> Figure:
    """Small mistakes put into the code: how many the tests notice. See scripts/mutation.py."""
    script = [str(ROOT / "scripts" / "mutation.py")]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "mutation.json" if short else MUTATIONS
        done = run([sys.executable, *script, *(["--share", "0.01", "--out", str(out)] if short else [])])
        if done.returncode:
            raise SystemExit(f"{done.stdout[-3000:]}\nscripts/mutation.py could not be run")
        return mutation_figure(json.loads(out.read_text()))


def mutation_figure(result: dict[str, Any]) -> Figure:
    """The row of what scripts/mutation.py wrote."""
    shown = f"{100 * result['score']:.1f} % of {result['mutants']:,} mutants noticed"
    if result["sample"] is not None:
        shown += f", a random {100 * result['sample']['share']:g} %"
    counts = {key: value for key, value in result.items() if key != "survivors"}  # these are in its own file
    return Figure(shown, True, "python scripts/mutation.py", counts)


Measure = Callable[[bool, list[str]], Figure]
ROWS: dict[str, tuple[str, Measure]] = {
    "resumes": ("killed runs that resume exactly", resumes),
    "layers": ("NaN and Inf: the right layer named", layers),
    "faults": ("faults around a run survived", faults),
    "flips": ("bits that flip in a checkpoint, noticed or without effect", flips),
    "changed": ("changes behind an interrupted run's back, noticed", changed),
    "two": ("two runs at once: both end well, or the second is refused", two),
    "inputs": ("bad files that end in a clear error or a clean skip", inputs),
    "fuzz": ("fuzzed parsers", fuzz),
    "coverage": ("coverage of `detector/`", coverage),
    "mutation": ("mutation score", mutation),
}


def main() -> int:
    """Measure the rows asked for and write the table; 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Measure how much can go wrong without harm.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default: all")
    parser.add_argument("--short", action="store_true", help="less of each, and nothing is written")
    parser.add_argument("--workers", type=int, default=1, help="processes for tests that allow it")
    parser.add_argument("--report-only", action="store_true", help="measure nothing, only write the table")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    results = {} if options.short or not RESULTS.exists() else json.loads(RESULTS.read_text())
    measured = () if options.report_only else options.rows or tuple(ROWS)
    for name in measured:
        results[name] = measure(name, options.short, options.workers)
        if not options.short:
            RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if not options.short and MUTATIONS.exists():  # made by a program of its own, maybe on its own
        took_over(results, json.loads(MUTATIONS.read_text()))
    text = table(results)
    if not options.short:
        write_between(PAGE, MARKER, text)
    print(text)
    return int(not all(results[name]["met"] for name in measured))


def measure(name: str, short: bool, workers: int) -> dict[str, Any]:
    """One row, with what it was measured at."""
    from detector.training.provenance import provenance

    print(f"measuring: {name}", file=sys.stderr, flush=True)
    parallel = ["-n", str(workers)] if workers > 1 else []
    outputs = [str(path.relative_to(ROOT)) for path in (RESULTS, PAGE, MUTATIONS)]
    made, began = provenance(outputs=outputs), time.monotonic()
    figure = ROWS[name][1](short, parallel)
    for failure in figure.failures:
        print(f"  failed: {failure}", file=sys.stderr)
    kept = {key: made[key] for key in ("commit", "dirty", "versions", "platform", "cpus")}
    return asdict(figure) | {"seconds": round(time.monotonic() - began, 1), "made": kept}


def took_over(results: dict[str, Any], mutations: dict[str, Any]) -> None:
    """Let the mutation row be what the last run of scripts/mutation.py found."""
    made = {key: mutations[key] for key in ("commit", "dirty")}
    row = asdict(mutation_figure(mutations)) | {"seconds": 60 * mutations["minutes"], "made": made}
    results["mutation"] = row


def table(results: dict[str, Any]) -> str:
    """Markdown: a line a row that was measured."""
    lines = ["| what | measured | minutes | commit |", "|---|--:|--:|---|"]
    versions: list[str] = []
    for name, (title, _) in ROWS.items():
        if name not in results:
            continue
        row = results[name]
        made = row["made"]
        shown = row["shown"] if row["met"] else f"**{row['shown']}**"
        commit = str(made["commit"])[:7] + ("+" if made["dirty"] else "")
        lines.append(f"| {title} | {shown} | {row['seconds'] / 60:.1f} | {commit} |")
        if "versions" not in made:
            continue
        cores = f"{made['cpus']} core{'s' if made['cpus'] != 1 else ''}"
        text = f"Python {made['versions']['python']}, torch {made['versions']['torch']}, {cores}"
        versions += [text] if text not in versions else []
    lines += ["", f"Measured with {'; '.join(versions)}." if versions else "Not measured yet."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
