"""How large the gradient is at each layer, relative to the last: of another run, from a file, or flat."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.errors import UserError, display_path
from detector.rows import Key, by_layer
from detector.rundir import RunDir
from detector.rundir.finding import run_directory
from detector.runtime.files import read_bytes
from detector.runtime.json_numbers import from_json

MAX_PROFILE = 1_000_000  # bytes
FLAT = "flat"


@dataclass(frozen=True)
class Profile:
    """Norms of activation gradients, each divided by the last layer's, over the steps of a run."""

    source: str  # where it comes from, as the user wrote it
    steps: Sequence[int]  # ascending, from 0: from each on, its ratios hold until the next
    ratios: Sequence[Mapping[str, float]]  # at each of them, layer -> ‖g(layer)‖ / ‖g(last layer)‖

    def at(self, step: int) -> Mapping[str, float]:
        """The newest ratios by this step."""
        return self.ratios[max(0, bisect_right(self.steps, step) - 1)]


def read_profile(source: str, layers: Sequence[str], steps: int, seed: int) -> Profile:
    """Read what `gradients.impose` names.

    Args:
        source: `flat`, the directory of a run, or a JSON file such as `{"00_stem": 1e-9, …, "22_p5.1": 1}`,
            whose numbers hold at every step. `{seed}` in its path stands for the seed.
        layers: of the network that it is for, in network order.
        steps: that the network is trained for.
        seed: of its run.

    Raises:
        UserError: it is missing or damaged, another network's, or of a run that diverged or is shorter.
    """
    if source == FLAT:
        return Profile(source, (0,), (dict.fromkeys(layers, 1.0),))
    path = Path(source.replace("{seed}", str(seed)))
    key = f"gradients.impose={display_path(path)}"
    if path.is_dir() or path.name in ("history.jsonl", "summary.json", "config.yaml"):
        found = _of_run(RunDir(run_directory(path)), key, steps)
    else:
        found = {0: _of_file(path, key)}
    ratios = []
    for step, norms in found.items():
        _check(norms, layers, f"{key}: at step {step}" if len(found) > 1 else key)
        last = norms[layers[-1]]
        ratios.append({name: norms[name] / last for name in layers})
    return Profile(display_path(path), tuple(found), ratios)


def _of_run(run: RunDir, key: str, steps: int) -> dict[int, dict[str, float]]:
    if run.scan_summary()[0].get("status") == "diverged":
        raise UserError(f"{key}: that run diverged: it has no gradient to impose; name one that finished")
    rows = [row for row in run.rows() if Key.SKIPPED not in row]
    found = {int(row[Key.STEP]): by_layer(row, Key.ACTIVATION_GRAD) for row in rows}
    found = {step: norms for step, norms in found.items() if norms}
    if not found:
        raise UserError(f"{key}: that run recorded no activation gradients; name one that did")
    if max(found) < steps - 1:
        raise UserError(
            f"{key}: its curve ends with step {max(found)}, but this run has {steps} steps; name a run of "
            f"that length, or set train.steps={max(found) + 1}"
        )
    return found


def _of_file(path: Path, key: str) -> dict[str, float]:
    try:
        content = from_json(read_bytes(path, MAX_PROFILE))
    except FileNotFoundError:
        raise UserError(f"{key}: no such file or run; it is flat, a run's directory or a JSON file") from None
    except OSError as error:
        raise UserError(f"{key}: cannot be read: {error.strerror}") from error
    except ValueError:
        raise UserError(f"{key}: not valid JSON") from None
    if not isinstance(content, dict) or not all(type(v) in (int, float) for v in content.values()):
        raise UserError(f'{key}: must be an object of layers and norms, such as {{"00_stem": 1e-9, …}}')
    return {name: float(value) for name, value in content.items()}


def _check(norms: Mapping[str, float], layers: Sequence[str], where: str) -> None:
    """Raise unless these are norms of exactly these layers."""
    if len(norms) != len(layers):
        raise UserError(
            f"{where}: it has {len(norms)} layers, and this network {len(layers)}: it is another network's"
        )
    if missing := [name for name in layers if name not in norms]:
        raise UserError(f"{where}: it has no {missing[0]}: it is another network's")
    for name in layers:
        if not math.isfinite(norms[name]) or norms[name] < 0:
            raise UserError(f"{where}: {name} is {norms[name]}; a norm is finite and at least 0")
    if not norms[layers[-1]]:
        raise UserError(f"{where}: {layers[-1]}, the last layer, is 0: the others have nothing to relate to")
    if not math.isfinite(max(norms.values()) / norms[layers[-1]]):
        raise UserError(
            f"{where}: {layers[-1]}, the last layer, is {norms[layers[-1]]}, too small to relate to"
        )
