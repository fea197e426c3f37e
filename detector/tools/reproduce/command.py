"""`detector reproduce`: a run once more from its own configuration, and whether it comes out the same."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from detector.errors import UserError
from detector.rows import Key
from detector.runtime.files import PROJECT

if TYPE_CHECKING:
    from detector.config.schema import Config
    from detector.rundir import RunDir

Row = Mapping[str, Any]

EXIT_IDENTICAL, EXIT_DIFFERS, EXIT_DIVERGED = 0, 1, 3
SAID_WHY = 2, 4, 129, 130, 143  # of train.py: the user's mistake, broken off, or asked to stop
ENDED = "finished", "diverged"

# What is not the experiment itself but may change its last digits.
CONDITIONS = (
    "commit",
    "dirty",
    "code",
    "plugins",
    "platform",
    "cpu",
    "device",
    "processes",
    "precision",
    "threads",
)
METRICS = "train/", "val/", "gradient/", "signal/", "status", "steps", "epochs", "parameters"
_PROSE = Key.DIAGNOSIS  # quotes other runs


class Difference(NamedTuple):
    """One number that did not come out the same."""

    step: int
    key: str
    then: Any  # None: it was not there
    now: Any

    def __str__(self) -> str:
        text = f"step {self.step}, {self.key}: {_text(self.then)} then, {_text(self.now)} now"
        return text if (size := self.relative) is None else f"{text} (relative {size:.1e})"

    @property
    def relative(self) -> float | None:
        """|now - then| / |then| where both are finite numbers."""
        values = [self.then, self.now]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            return None
        return abs(self.now - self.then) / abs(self.then) if self.then else math.inf


def reproduce(run_dir: Path, /, *, out: Path | None = None, plugin: tuple[Path, ...] = ()) -> int:
    """Run a run again and compare, bit for bit.

    Trains from RUN_DIR/config.yaml into a new directory, and compares history, metrics and data, without
    times. RUN_DIR is only read; nothing goes to W&B. Exit code 0: identical; 1: not.

    Args:
        run_dir: the run's directory.
        out: a new directory; default: runs/<its name>-again-<time>.
        plugin: the Python file of the run's own parts, if it has any; may be repeated.

    Returns:
        0 if it is identical, 1 if not; the second run's own exit code if it did not get to its end.

    Raises:
        UserError: it is no run's directory, `--out` is taken, or the second run failed.
    """
    from detector.registry import load_plugins, plugin_arguments
    from detector.rundir import RunDir
    from detector.training.provenance import provenance

    load_plugins(plugin)
    first = RunDir(run_dir)
    config = first.read_config().config
    _check_unchanged(first, config)
    rows = first.rows(report=lambda text: print(f"note: {text}"))
    if not rows or not all(isinstance(row.get("step"), int) for row in rows):
        raise UserError(f"{first.history_file}: holds no rows with a step: there is nothing to compare with")
    summary = first.read_summary()
    second = RunDir(new_directory(first.path, out))
    here = provenance()
    del here["device"]  # known once the second run has chosen one
    if changed := list(changes(summary, here)):
        print("changed since, so that its last digits may differ: " + "; ".join(changed), flush=True)

    # Sums come out differently on another number of threads, and W&B and a fallback are not wanted here.
    arguments = [f"run.dir={second}", "tracking.wandb=disabled", "data.fallback=none"]
    if config.train.threads is None and isinstance(summary.get("threads"), int):
        arguments.append(f"train.threads={summary['threads']}")
    code = train(["--config", str(first.config_file), *plugin_arguments(), *arguments])
    if code in SAID_WHY:
        return code
    if code not in (0, EXIT_DIVERGED):
        raise UserError(f"{second}: the second run failed (exit code {code}; below 0 a signal): see above")
    same = report(rows, second.rows(), summary, second.read_summary())
    print(f"{first} and {second}: {'identical' if same else 'not the same'}")
    return EXIT_IDENTICAL if same else EXIT_DIFFERS


def _check_unchanged(first: RunDir, config: Config) -> None:
    """Raise UserError if its config.yaml is not what it was trained with. A run need not have checkpoints."""
    from detector.config.experiment import edited

    saved: Any = {}
    if first.last.exists():
        with suppress(UserError):  # a damaged one: what counts is the history
            saved = first.read_checkpoint("last")
    if changed := edited(saved.get("extra", {}).get("config", {}), config):
        raise UserError(f"{first.config_file}: was changed since the run began: {changed[0]}; change it back")


def new_directory(first: Path, out: Path | None) -> Path:
    """Where the second run goes.

    Raises:
        UserError: it would touch the first run, or something else that is there.
    """
    if out is None:
        return Path("runs") / f"{first.resolve().name}-again-{time.strftime('%Y%m%d-%H%M%S')}"
    if out.resolve().is_relative_to(first.resolve()):
        raise UserError(f"--out {out}: lies in {first}, which is only read; choose a new directory")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: already exists; choose a new directory")
    return out


def train(arguments: Sequence[str]) -> int:
    """Run train.py; its progress goes to stderr. A Ctrl-C reaches it too, and it is given time to stop."""
    command = [sys.executable, str(PROJECT / "train.py"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


def report(
    rows: Sequence[Row], again: Sequence[Row], summary: Mapping[str, Any], new: Mapping[str, Any]
) -> bool:
    """Print what is identical and what differs first; return whether everything is identical."""
    changed = list(changes(summary, new))
    print("conditions:  " + ("; ".join(changed) if changed else "the same" if summary else "not known"))
    data = summary.get("data_fingerprint")
    pixels = summary.get("pixel_fingerprint")  # early runs have none
    same_data = data == new.get("data_fingerprint") and pixels in (None, new.get("pixel_fingerprint"))
    print("data:        " + ("identical" if same_data else "not known" if data is None else "not the same"))

    ended = summary.get("status") in ENDED
    if not ended:
        again = [row for row in again if row["step"] <= rows[-1]["step"]]
        print(f"             (the first run did not end by itself: compared up to step {rows[-1]['step']})")
    found, numbers = compare_histories(rows, again)
    print(f"history:     {len(rows)} rows, {numbers} numbers: {_verdict(found)}")
    if lost := lost_rows(rows, again):
        steps = ", ".join(map(str, lost[:5])) + (", …" if len(lost) > 5 else "")
        print(f"             the first run's history has gaps: rows of {len(lost)} step(s) are lost: {steps}")
    of_summary = compare_summaries(summary, new) if ended else []
    if ended:
        print(f"summary:     {_verdict(of_summary)}")
    return not found and not of_summary and (same_data or data is None)


def _verdict(found: Sequence[Difference]) -> str:
    if not found:
        return "identical"
    sizes = [size for difference in found if (size := difference.relative) is not None]
    largest = f", by up to {max(sizes):.1e}" if sizes else ""
    return f"{len(found)} differ{largest}\n  first at   {found[0]}"


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Versions and conditions that both know, and that are not the same."""
    versions, newer = then.get("versions") or {}, now.get("versions") or {}
    for name in versions:
        if name in newer and versions[name] != newer[name]:
            yield f"{name} {versions[name]} -> {newer[name]}"
    for key in CONDITIONS:
        if key in then and key in now and then[key] != now[key]:
            yield f"{key} {then[key]} -> {now[key]}"
    if (stacked := then.get("stacked", 1)) != now.get("stacked", 1):
        yield f"trained with {stacked - 1} others (detector ablate --stack) -> alone"


def compare_histories(then: Sequence[Row], now: Sequence[Row]) -> tuple[list[Difference], int]:
    """What differs, in the order of steps and of the keys in a row, and how many numbers were compared."""
    found: list[Difference] = []
    numbers = 0
    before, after = ({row["step"]: row for row in rows} for rows in (then, now))
    for step in sorted(before.keys() | after.keys()):
        if step not in before or step not in after:
            there = step in before
            found.append(
                Difference(step, "the whole row", "there" if there else None, None if there else "there")
            )
            continue
        one, other = before[step], after[step]
        for key in dict.fromkeys((*one, *other)):
            if not key.startswith("time/"):
                numbers += 1
                if not _equal(one.get(key), other.get(key)):
                    found.append(Difference(step, key, one.get(key), other.get(key)))
    return found, numbers


def lost_rows(then: Sequence[Row], now: Sequence[Row]) -> list[int]:
    """The steps before the first run's last row that only the second has.

    Both have the same configuration, and so write a row at the same steps.
    """
    there = {row["step"] for row in then}
    return [row["step"] for row in now if row["step"] < max(there) and row["step"] not in there]


def compare_summaries(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What differs in the metrics that both have; times, versions and prose aside."""
    keys = [key for key in then if key.startswith(METRICS) and key in now and key != _PROSE]
    step = int(now.get("steps", 0))
    return [Difference(step, key, then[key], now[key]) for key in keys if not _equal(then[key], now[key])]


def _equal(one: Any, other: Any) -> bool:
    both_nan = one != one and other != other
    return both_nan or (type(one) is type(other) and one == other)


def _text(value: Any) -> str:
    return "nothing" if value is None else repr(value) if isinstance(value, float) else str(value)
