"""The result as a whole: every cell's runs and the answer, as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detector.analysis.statistics import Estimate
from detector.errors import UserError
from detector.jobs.runner import COMPLETE, Job
from detector.runtime.files import write_text
from detector.runtime.json_numbers import to_json
from detector.tools.why.answer import Answer, Outcomes, answer, paired, take_apart
from detector.tools.why.cells import Design, Role
from detector.tools.why.outcome import Outcome, read_outcome
from detector.training.provenance import provenance


@dataclass(frozen=True)
class Result:
    """What `detector why` found out about one ablation."""

    ablation: str
    data: str
    metric: str  # the key of the mAP that counts on this data
    outcomes: Mapping[Role, Mapping[int, Outcome]]  # of each cell, by seed
    answer: Answer  # about the loss
    metric_gap: Estimate  # of the mAP
    metric_shares: Mapping[str, Estimate]
    runs: Mapping[Role, list[str]]  # directories
    seconds: Mapping[Role, float]  # of training, mean of a cell's runs

    def losses(self) -> Outcomes:
        """The final loss of each cell by seed."""
        return {role: {s: o.loss for s, o in by_seed.items()} for role, by_seed in self.outcomes.items()}

    def metrics(self) -> Outcomes:
        """The mAP of each cell by seed."""
        return {role: {s: o.metric for s, o in by_seed.items()} for role, by_seed in self.outcomes.items()}


def collect(plan: Design, by_role: Mapping[Role, list[Job]], data: str, metric: str) -> Result:
    """Read the runs, and the answer from them."""
    outcomes: dict[Role, dict[int, Outcome]] = {
        role: {job.cell.seed: read_outcome(job, metric) for job in runs if job.status in COMPLETE}
        for role, runs in by_role.items()
    }
    if not plan.strips_rest:
        outcomes["trunk"] = outcomes["ablation"]
    losses: Outcomes = {role: {s: o.loss for s, o in found.items()} for role, found in outcomes.items()}
    maps: Outcomes = {role: {s: o.metric for s, o in found.items()} for role, found in outcomes.items()}
    return Result(
        plan.name,
        data,
        metric,
        outcomes,
        answer(plan.name, data, losses, strips_rest=plan.strips_rest),
        paired(maps, lambda y: y["ablation"] - y["baseline"]),
        take_apart(maps, strips_rest=plan.strips_rest),
        {role: [str(job.directory) for job in runs] for role, runs in by_role.items()},
        {role: _seconds(runs) for role, runs in by_role.items()},
    )


def to_file(result: Result, path: Path) -> None:
    """Write everything as JSON, in place of an earlier answer of the same ablation.

    Raises:
        UserError: it cannot be written.
    """
    content: dict[str, Any] = asdict(result)
    content["answer"]["control"] = result.answer.control and asdict(result.answer.control)
    try:
        write_text(path, to_json(content | {"made": provenance()}, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def _seconds(runs: list[Job]) -> float:
    found = [float(job.summary["seconds"]) for job in runs if job.summary.get("seconds")]
    return sum(found) / len(found) if found else 0.0
