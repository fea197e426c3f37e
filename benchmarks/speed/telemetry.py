"""What watching the gradients costs a step, and how many bytes it writes.

Every side is a network of its own with the same weights and images; the sides take turns, so that a ratio
is formed within a round. W&B is offline on both sides: theirs logs what `wandb.watch` collects in every
step, ours the recorder's row. Handing the row to W&B is part of the step on both sides; its own process
writes it, on the same core.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import wandb

from benchmarks.speed.network import Training, pairs, training
from benchmarks.speed.row import Row, in_turns
from detector.config import GradientsConfig, ModelConfig

SIZE, BATCH = 160, 2
ROUNDS = 25
EVERY = GradientsConfig().every  # steps between recordings, as delivered
LOGGED = 40  # steps whose bytes are counted
WHAT = f"yolov8n, {SIZE} px, batch {BATCH}"


def measure() -> list[Row]:
    """Step times with and without, and the sizes of the files."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return [*times(Path(folder)), *sizes(Path(folder))]


def new() -> Training:
    """The network, on one thread in fp32."""
    return training(ModelConfig(pretrained="yolov8n.yaml"), SIZE, BATCH)


def start(folder: Path, name: str) -> Any:
    """An offline W&B run, which neither samples the machine nor reads the terminal on either side."""
    (folder / name).mkdir()
    quiet = {"console": "off", "x_disable_stats": True, "x_disable_meta": True}
    settings = wandb.Settings(silent=True, reinit="create_new", **quiet)
    return wandb.init(mode="offline", dir=str(folder / name), project="benchmark", settings=settings)


def ours(run: Any, every: int = 1) -> Callable[[], None]:
    """Steps of which one in `every` is recorded and logged."""
    network = new()

    def steps() -> None:
        network.steps(every, every)
        run.log(network.row)

    return steps


def theirs(run: Any, what: Literal["gradients", "all"]) -> Callable[[], None]:
    """A step with their hooks, every step logged."""
    network = new()
    run.watch(network.learner.model, log=what, log_freq=1)

    def step() -> None:
        wandb.run = run  # their hooks log to the global run; here are several
        network.step()
        run.log({})  # sends what the hooks have collected

    return step


def times(folder: Path) -> list[Row]:
    """The ratios of step times."""
    runs = {name: start(folder, name) for name in ("ours", "every", "gradients", "all")}
    plain, plain_steps = new(), new()
    sides: dict[str, Callable[[], object]] = {
        "plain": plain.step,
        "ours": ours(runs["ours"]),
        "gradients": theirs(runs["gradients"], "gradients"),
        "all": theirs(runs["all"], "all"),
        "plain steps": lambda: plain_steps.steps(EVERY),
        "every": ours(runs["every"], EVERY),
    }
    seconds = in_turns(sides, ROUNDS, warm_up=3)
    for run in runs.values():
        run.finish()
    own = list(pairs(seconds["ours"], seconds["plain"]))
    default = list(pairs(seconds["every"], seconds["plain steps"]))
    milliseconds = 1000 * sorted(seconds["plain"])[ROUNDS // 2]
    note = f"step time with / without; without: {milliseconds:.0f} ms"
    rows = []
    for watched in ("gradients", "all"):
        peer = f'`wandb.watch(log="{watched}", log_freq=1)`'
        other = list(pairs(seconds[watched], seconds["plain"]))
        what = f"gradient telemetry, {WHAT}: every step"
        rows.append(Row(what, peer, "×", own, other, target=1.05, absolute=True, note=note))
        if watched == "gradients":
            what = f"the same at the default interval, one step in {EVERY}"
            rows.append(Row(what, peer, "×", default, other, target=1.01, absolute=True, note=note))
    return rows


def sizes(folder: Path) -> list[Row]:
    """Kilobytes of the .wandb file for each logged step: what more steps add to it."""
    found: dict[str, float] = {}
    for name, side in {"small": ours, "peer": lambda run: theirs(run, "gradients")}.items():
        lengths = []
        for steps in (LOGGED // 4, LOGGED):
            run = start(folder, f"{name}-{steps}")
            step = side(run)
            for _ in range(steps):
                step()
            run.finish()
            (file,) = (folder / f"{name}-{steps}").rglob("*.wandb")
            lengths.append(file.stat().st_size)
        found[name] = (lengths[1] - lengths[0]) / (LOGGED - LOGGED // 4) / 1000
    what = f"bytes a logged step adds to the W&B file, {WHAT}"
    peer = '`wandb.watch(log="gradients", log_freq=1)`'
    return [Row(what, peer, "kB", [found["small"]], [found["peer"]], target=10, absolute=True)]
