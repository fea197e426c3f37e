"""What watching the gradients costs a step, and how many bytes it writes.

Each way of watching takes turns with steps that are not watched, so that a ratio is formed within a round;
all networks have the same weights and images. W&B is offline on both sides: theirs logs what `wandb.watch`
collects in every step, ours the recorder's row. Handing the row to W&B is part of the step on both sides;
its own process writes it, on the same core.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import wandb

from benchmarks.speed.network import Training, pairs, training
from benchmarks.speed.row import Row, in_turns
from detector import watch
from detector.config.schema import GradientsConfig, ModelConfig

SIZE, BATCH = 160, 2
ROUNDS = 25
EVERY = GradientsConfig().every  # steps between recordings, as delivered
WATCHED: int = signature(watch).parameters["every"].default  # the same of `watch`
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


def loop(every: int | None) -> Callable[[], None]:
    """Steps of a loop of one's own: `watch` records one in `every`, or nothing does. Rows stay in memory."""
    network = new()
    model, optimizer = network.state.model, network.state.optimizer
    flow = watch(model, every=every) if every else None
    model.train()

    def steps(count: int = every or 1) -> None:
        for _ in range(count):
            loss = network.loss_fn(model(network.state.preprocess(network.images)), network.targets).total
            loss.backward()
            if flow is not None:
                flow.step(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()

    return steps


def theirs(run: Any, what: Literal["gradients", "all"]) -> Callable[[], None]:
    """A step with their hooks, every step logged."""
    network = new()
    run.watch(network.state.model, log=what, log_freq=1)

    def step() -> None:
        wandb.run = run  # their hooks log to the global run; here are several
        network.step()
        run.log({})  # sends what the hooks have collected

    return step


def times(folder: Path) -> list[Row]:
    """The ratios of step times, one way of watching at a time: W&B's process may still be writing."""
    ratios: dict[str, list[float]] = {}
    seconds: list[float] = []
    for way in ("ours", "every", "gradients", "all", "watch", "watch at times"):
        # In a process of its own: `wandb.watch` belongs to the one global run of its process.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            ratios[way], without = pool.apply(rounds, (way, folder))
            seconds += without
    what = f"gradient telemetry, {WHAT}"
    note = f"step time without recording: {1000 * median(seconds):.0f} ms"
    rows = []
    for interval, own, target in (("every step", "ours", 1.05), (f"one step in {EVERY}", "every", 1.01)):
        for peer in ("gradients", "all"):
            rows.append(
                Row(f"{what}: {interval}", f'`wandb.watch(log="{peer}", log_freq=1)`', "×", ratios[own],
                    ratios[peer], target=target, absolute=True, note=note)
            )  # fmt: skip
    del rows[3]  # the default interval needs no second peer
    peer = '`wandb.watch(log="gradients", log_freq=1)`'
    for interval, own, target in (
        ("every step", "watch", 1.08),
        (f"one step in {WATCHED}", "watch at times", 1.01),
    ):
        what = f"`detector.watch` in a plain loop, {WHAT}: {interval}"
        rows.append(Row(what, peer, "×", ratios[own], ratios["gradients"], target=target, absolute=True))
    return rows


def rounds(way: str, folder: Path) -> tuple[list[float], list[float]]:
    """Each round's ratio of step times, and the seconds of a step without."""
    torch.set_num_threads(1)
    if way.startswith("watch"):
        steps = 1 if way == "watch" else WATCHED
        sides = {"without": partial(loop(None), steps), "with": loop(steps)}
        measured = in_turns(sides, ROUNDS, warm_up=3)
        return list(pairs(measured["with"], measured["without"])), []
    run, plain, steps = start(folder, way), new(), EVERY if way == "every" else 1
    if way in ("ours", "every"):
        watched = ours(run, steps)
    else:
        watched = theirs(run, "all" if way == "all" else "gradients")
    measured = in_turns({"without": partial(plain.steps, steps), "with": watched}, ROUNDS, warm_up=3)
    run.finish()
    return list(pairs(measured["with"], measured["without"])), [one / steps for one in measured["without"]]


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
