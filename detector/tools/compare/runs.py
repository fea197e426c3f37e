"""Run directories as they are found: finished, interrupted, torn, or written by another version.

Every directory ends up in one of two lists: runs, each with its state and what is odd about it, or left
out with the reason. Nothing a file holds may stop the others from being compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from detector.analysis.diagnosis import diagnose
from detector.config.experiment import WATCHED, experiment
from detector.config.safe_yaml import Value, read
from detector.errors import UserError, escape_control, shorten
from detector.rows import Key
from detector.rundir import RunDir
from detector.rundir.history import Rows
from detector.runtime.files import TRAIN
from detector.runtime.json_numbers import number
from detector.tools.compare.history import Curves, curves, nonfinite_note
from detector.tools.compare.metrics import COSTS, KEYS, own_keys

State = Literal["finished", "diverged", "stopped", "unfinished"]


@dataclass(frozen=True)
class Step:
    """One factor of the chain rule: what an operation does to the gradient's norm on its way back."""

    step: int
    block: str
    operation: str
    factor: float


@dataclass(frozen=True)
class Run:
    """One run directory."""

    directory: Path
    name: str  # of the ablation
    seed: int | None
    state: State
    notes: tuple[str, ...]
    config: Mapping[str, Any]  # "section.key" -> value
    values: Mapping[str, float]  # KEYS and registered metrics; NaN where a run in this state has none
    verdicts: tuple[str | None, str | None]  # at initialisation, late
    data: str | None  # the dataset's fingerprint, known once a run has ended
    dataset: str  # its name, or where the configuration says it is
    commit: str | None
    curves: Curves
    ledger: tuple[Step, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)  # of its network, by the keys of COSTS
    network: tuple[str, ...] = ()  # a YOLO's layers: [from, repeats, module, arguments] as JSON
    machine: str = ""  # what it was trained on, and with which versions
    warnings: frozenset[str] = frozenset()  # kinds of what `detector check` warns of in its data

    def value(self, key: str) -> float:
        """A number of this run; NaN where it has none."""
        return self.values.get(key, math.nan)

    @property
    def identity(self) -> dict[str, Any]:
        """The keys that make it this experiment, whichever version wrote them."""
        return experiment(self.config)


@dataclass(frozen=True)
class LeftOut:
    """A directory that is not compared, and why."""

    directory: Path
    reason: str


def load_runs(paths: Sequence[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Read run directories, and folders of run directories.

    Raises:
        UserError: a path does not exist, or no run is left.
    """
    directories = list(dict.fromkeys(d.resolve() for path in paths for d in _directories(path)))
    loaded = [_load(directory) for directory in directories]
    runs = [item for item in loaded if isinstance(item, Run)]
    out = [item for item in loaded if isinstance(item, LeftOut)]
    runs, again = _without_repeats(runs)
    if not runs:
        reasons = "; ".join(f"{item.directory.name}: {item.reason}" for item in out[:3])
        raise UserError(f"no run to compare in {', '.join(map(str, paths))}" + (f" ({reasons})" * bool(out)))
    return runs, out + again


def _directories(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"{path}: no such directory; name a run's directory, such as runs/baseline-s0")
    if _files(path):
        return [path]
    try:
        inside = sorted(path.iterdir())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if not (found := [child for child in inside if _files(child)]):
        folders = [child for child in inside if child.is_dir()]
        deeper = next((folder for folder in folders if any(map(_files, _children(folder)))), None)
        hint = f"did you mean {deeper}?" if deeper else f"a run leaves them: {TRAIN}"
        names = "config.yaml, history.jsonl, summary.json"
        raise UserError(f"{path}: neither a run's directory nor a folder of them: none of {names}; {hint}")
    return found


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _files(path: Path) -> bool:
    return RunDir(path).exists()


def _load(directory: Path) -> Run | LeftOut:
    run = RunDir(directory)
    try:
        config = flatten(read(run.config_file, run.config_file.name))
    except UserError as error:
        return LeftOut(directory, f"what it was trained on is unknown: {error}")
    needed = ("train.seed",) if WATCHED in config else ("data.image_size", "train.seed")
    missing = [key for key in needed if not isinstance(config.get(key), int)]
    if missing:
        return LeftOut(directory, f"config.yaml has no usable {', '.join(missing)} (another version's?)")
    summary, problem = run.scan_summary()
    try:
        rows, notes = run.scan_history()
    except OSError as error:
        rows, notes = Rows(), [f"history.jsonl cannot be read ({error.strerror}): no curves"]
    if not rows and not summary:
        return LeftOut(directory, f"nothing was recorded: {'; '.join([*notes, problem or ''])}".rstrip("; "))
    if problem:
        notes.append(problem)
    if note := nonfinite_note(rows):
        notes.append(note)
    notes += _odd(config, summary, rows)
    state = _state(summary)
    verdicts: tuple[str | None, str | None]
    if state == "unfinished":  # what was measured at step 0 is a result whatever became of the run
        late: Mapping[str, Any] = _diagnose(rows)
        values = dict.fromkeys(KEYS, math.nan)
        values[KEYS[0]] = number(late.get(KEYS[0]))
        verdicts = _text(late.get(Key.VERDICT + Key.INIT)), None
    else:
        ended = state != "stopped"
        kept = set(KEYS) if ended else {KEYS[0]}
        if state == "diverged":  # cut short: neither its time nor its last finite loss compares
            kept -= {"seconds", Key.LOSS}
        values = {key: number(summary.get(key)) if key in kept else math.nan for key in KEYS}
        values |= {key: number(summary[key]) if ended else math.nan for key in own_keys(summary)}
        late_verdict = _text(summary.get(Key.VERDICT)) if ended else None
        verdicts = (_text(summary.get(Key.VERDICT + Key.INIT)), late_verdict)
    ledger, note = run.scan_ledger()
    name = summary.get("ablation") or config.get("run.name") or directory.name
    fingerprint, commit = summary.get("data_fingerprint"), summary.get("commit")
    warnings = summary.get("data/warnings")
    return Run(
        directory=directory,
        name=shorten(str(name)),
        seed=config["train.seed"],
        state=state,
        notes=(*notes, *([note] if note else [])),
        config=config,
        values=values,
        verdicts=verdicts,
        data=fingerprint if isinstance(fingerprint, str) else None,
        dataset=shorten(str(summary.get("dataset") or Path(str(config.get("data.path", "unknown"))).stem)),
        commit=escape_control(commit[:7]) if isinstance(commit, str) else None,
        curves=curves(rows, summary),
        ledger=tuple(
            Step(row["step"], row["block"], _operation(row), number(row["factor"])) for row in ledger
        ),
        costs={
            metric.key: cost / metric.unit
            for metric in COSTS
            if math.isfinite(cost := number(summary.get(metric.key)))
        },
        network=_network(summary.get(Key.NETWORK)),
        machine=_machine(summary),
        warnings=frozenset(warnings) if isinstance(warnings, dict) else frozenset(),
    )


def _network(layers: object) -> tuple[str, ...]:
    found = layers if isinstance(layers, list) else []
    return tuple(json.dumps(layer) for layer in found if isinstance(layer, list) and len(layer) == 4)


def _machine(summary: Mapping[str, Any]) -> str:
    """Device, threads, precision and torch, as far as the summary says."""
    versions, threads = summary.get("versions"), summary.get("threads")
    facts = [summary.get("device"), summary.get("precision")]
    facts += [f"{threads} thread{'s' * (threads != 1)}"] if isinstance(threads, int) else []
    if isinstance(versions, dict):
        facts += [f"{name} {versions[name]}" for name in ("torch", "ultralytics") if versions.get(name)]
    return ", ".join(shorten(str(fact)) for fact in facts if fact)


def flatten(value: Value, prefix: str = "") -> dict[str, Any]:
    """A parsed document as "section.key" -> value."""
    if not isinstance(value.value, dict):
        return {prefix: value.value} if prefix else {}
    flat: dict[str, Any] = {}
    for key, item in value.value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _state(summary: Mapping[str, Any]) -> State:
    if not summary:
        return "unfinished"
    status = summary.get("status")
    return status if status in ("finished", "diverged") else "stopped"


def _odd(
    config: Mapping[str, Any], summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What does not fit together, in words."""
    notes = []
    if summary:
        missing = [key for key in (*KEYS, "status", "data_fingerprint") if key not in summary]
        if missing:
            notes.append(f"summary.json (another version's?) lacks {', '.join(missing)}")
        if "status" in summary and summary["status"] not in ("finished", "diverged", "stopped"):
            notes.append(f"its status {shorten(str(summary['status']))!r} is unknown: taken as stopped")
        seed = summary.get("seed")
        if seed is not None and seed != config["train.seed"]:
            notes.append(f"summary.json says seed {shorten(str(seed))}, config.yaml {config['train.seed']}")
    if summary.get("stopped_early") is not None:
        notes.append(f"train.patience ended it at step {number(summary.get('steps')):.0f}")
    if lost := summary.get(Key.STEPS_LOST):
        count = len(lost) if isinstance(lost, list) else "some"
        notes.append(f"rows of its history are lost, of {count} step(s)")
    steps, every = number(summary.get("steps")), number(config.get("gradients.every"))
    # The last step is always recorded; where it is not, what came before cannot be told from what is lost.
    if rows and summary.get("status") == "finished" and rows[-1]["step"] + max(every, 1) < steps:
        notes.append(f"its history ends at step {rows[-1]['step']} of {steps:.0f}: curves are cut short")
    return notes


def _diagnose(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return diagnose(rows, int(rows[-1]["step"]) + 1) if rows else {}
    except (KeyError, ValueError):  # a row of another version, without the indices or the norms
        return {}


def _text(value: object) -> str | None:
    return shorten(value) if isinstance(value, str) else None


def _operation(entry: Mapping[str, Any]) -> str:
    """Its place in the block, and what stands there if the ledger says so: `a.act (SiLU)`."""
    layer = entry.get("layer")
    return str(entry["operation"]) + (f" ({layer})" if layer and layer != entry["operation"] else "")


def _without_repeats(runs: Sequence[Run]) -> tuple[list[Run], list[LeftOut]]:
    """One run for each configuration and seed, finished if possible: a repeat is not another sample."""
    rank = {"finished": 0, "diverged": 1, "stopped": 2, "unfinished": 3}
    kept: dict[str, list[Run]] = {}
    out = []
    for run in sorted(runs, key=lambda run: rank[run.state]):
        same = kept.setdefault(repr((run.name, run.seed, run.dataset, sorted(run.identity.items()))), [])
        # A run that did not end knows its data by name only.
        twin = next((other for other in same if run.data in (other.data, None)), None)
        if twin is None:
            same.append(run)
        else:
            reason = f"the same ablation, configuration and seed as {twin.directory.name}: not another sample"
            out.append(LeftOut(run.directory, reason))
    chosen = {id(run) for same in kept.values() for run in same}
    return [run for run in runs if id(run) in chosen], out
