"""`detector why`: the crossed experiment, from an ablation to one answer."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.errors import UserError
from detector.runtime.files import TRAIN, write_text

if TYPE_CHECKING:
    from detector.data.dataset import Dataset
    from detector.jobs.runner import Job
    from detector.tools.why.cells import Design

EXIT_FAILED = 1
MOST_SEEDS = 1000


def why(
    ablation: Path,
    /,
    *overrides: str,
    seeds: int = 5,
    on: str = "shapes",
    jobs: int | None = None,
    out: Path | None = None,
    html: Path | None = None,
    dry_run: bool = False,
    plugin: tuple[Path, ...] = (),
) -> int:
    """Is it the gradient? Take an ablation's loss apart: forward, backward, neck and head.

    Trains the ablation and its baseline, both again with frozen trunks and with each other's gradient curve
    imposed, and the stripped trunk under an intact neck and head. What is complete is not run again; what was
    interrupted is resumed. Ablations on the same data share the runs of the baseline.

    Args:
        ablation: a file that strips act, norm or shortcut, or a name such as no_residual.
        overrides: section.key=value for all cells.
        seeds: how many a cell.
        on: shapes, coco8, or a data YAML.
        jobs: runs at a time; default: one a core, at most 4.
        out: the folder of the runs and the answer; default: runs/why-<the data's name>.
        html: write the answer as one self-contained web page.
        dry_run: print the command of each run, and run none.
        plugin: a Python file that registers parts of one's own, for every run; may be repeated.

    Returns:
        0; 1 if a cell failed; 130 after Ctrl-C (143 after SIGTERM).

    Raises:
        UserError: not an ablation that can be taken apart, or data without objects; nothing was started.
    """
    from detector.jobs.local import LocalProcesses, available_cores
    from detector.registry import load_plugins, plugin_arguments
    from detector.tools.why.cells import design

    if not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"--seeds: must be how many, 1 to {MOST_SEEDS}, not {seeds}")
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs: must be at least 1, not {jobs}")
    load_plugins(plugin)
    out = out or Path("runs") / f"why-{Path(on).stem}"
    plan = design(ablation, on, seeds, out, overrides)
    if dry_run:
        for cell in (cell for cells in plan.cells.values() for cell in cells):
            arguments = *plugin_arguments(), *cell.arguments(out / cell.name, threads=1)
            print(TRAIN, shlex.join(arguments))
        return 0

    from detector.jobs import runner
    from detector.runtime.signals import StopRequest
    from detector.tools.why.outcome import WhyDisplay

    dataset = _data(plan)
    _write_profile(plan, out, dataset)
    by_role = _jobs(plan, out)
    order = sorted((job for runs in by_role.values() for job in runs), key=lambda job: job.cell.seed)
    missing = [job for job in order if job.status == "waiting"]
    _say(f"why {plan.name}: {len(order)} runs in {out}, {len(order) - len(missing)} of them complete")
    exit_code = 0
    if missing:
        slots = min(jobs or min(available_cores(), 4), len(missing))
        with StopRequest() as stop, WhyDisplay(f"why {plan.name}") as display:
            try:
                runner.run(order, LocalProcesses(slots), display, stop)
            except KeyboardInterrupt:
                _say("killed: what was not saved is lost, and is trained again by the same command")
        exit_code = stop.exit_code
    if exit_code:
        _say("stopped; the same command goes on where it stopped")
        return exit_code
    _report(plan, by_role, dataset, out, html)
    if failed := [job for job in order if job.status == "failed"]:
        _say("failed: " + "; ".join(f"{job.cell.name}: {job.problem}" for job in failed))
        return EXIT_FAILED
    return 0


def _data(plan: Design) -> Dataset:
    """The data of all cells, made ready once.

    Raises:
        UserError: it is not there, or there is nothing in it to detect.
    """
    from detector.data.coco8 import DatasetUnavailable
    from detector.jobs.data import fetch

    config = plan.cells["baseline"][0].config
    try:
        dataset = fetch([config])[0]
    except DatasetUnavailable as error:
        raise UserError(f"{error}\nwithout COCO8: --on shapes") from error
    if not any(len(item.boxes) for item in dataset.splits["train"]):
        raise UserError(f"{config.data.path}: no object in any training image: there is nothing to learn")
    return dataset


def _write_profile(plan: Design, out: Path, dataset: Dataset) -> None:
    """The positive control's curve, for the layers of this network."""
    from detector.models.build import build_network
    from detector.runtime.json_numbers import to_json
    from detector.tools.why.cells import PROFILE, nine_decades

    config = plan.cells["baseline"][0].config.model
    layers = build_network(config, len(dataset.names)).backbone_layers()
    if len(layers) < 2:
        raise UserError(f"model.name={config.name}: names no layers of a trunk to work on")
    text = to_json(nine_decades(list(layers)), indent=1) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path = out / PROFILE
        if not path.exists():
            write_text(path, text)
        elif path.read_text(encoding="utf-8") != text:
            raise UserError(f"{path}: is of another network; choose another --out")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error


def _jobs(plan: Design, out: Path) -> dict[Any, list[Job]]:
    """The runs of each role; those on which a curve is imposed wait for its source."""
    from detector.jobs import runner

    by_role = {role: runner.plan(cells, out) for role, cells in plan.cells.items()}
    for role, source in plan.sources.items():
        for job, before in zip(by_role[role], by_role[source], strict=True):
            job.after = (before,)
    return by_role


def _report(
    plan: Design, by_role: dict[Any, list[Job]], dataset: Dataset, out: Path, html: Path | None
) -> None:
    from detector.analysis.evidence import metric_of
    from detector.tools.why.answer import basis, lines
    from detector.tools.why.result import collect, to_file

    result = collect(plan, by_role, dataset.name, metric_of(dataset.name))
    path = out / f"{plan.name}.json"
    to_file(result, path)
    print("\n".join(lines(result.answer, result.metric_gap, result.metric_shares)))
    print(basis(result.answer.gap))
    if result.answer.control is not None:
        verdict = "passed" if result.answer.control.passed else "FAILED"
        print(f"positive control {verdict}: {result.answer.control.says}")
    print(f"\n{result.answer.says}")
    print(f"all numbers: {path}", file=sys.stderr)
    if html is not None:
        from detector.tools.why.page import page

        text = page(result)
        try:
            html.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--html {html}: cannot be written: {error.strerror}") from error
        print(f"{html}: {len(text.encode()) / 1e6:.1f} MB", file=sys.stderr)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
