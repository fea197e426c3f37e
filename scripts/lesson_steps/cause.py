"""Page 7: is it the gradient? The experiment of `detector why`, on a network that trains in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.config.schema import ModelConfig
from detector.data.shapes import NAMES
from detector.gradients.impose import ImposedProfile
from detector.gradients.profile import Profile
from detector.gradients.recorder import GradientRecorder
from detector.models.blocks import Block, ConvNormAct, components
from detector.models.init import init_weights
from detector.rows import Key, by_layer
from scripts.lesson_steps.common import SEEDS, TRUNKS, Found, picture, spread, table, training_steps
from scripts.lesson_steps.training import crops

STEPS_EACH, RATE, CHANNELS, BLOCKS = training_steps(75), 0.02, 16, 6
SICK = "no_residual", "plain_sigmoid"
Curve = list[dict[str, float]]  # a step each: layer -> ‖g‖


class Classifier(nn.Module):
    """A trunk of a stem and six blocks at a quarter of the resolution, and a linear layer on its output."""

    def __init__(self, seed: int, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(seed)
        parts = components(ModelConfig(**settings))
        blocks = (Block(CHANNELS, parts) for _ in range(BLOCKS))
        self.trunk = nn.Sequential(ConvNormAct(3, CHANNELS, parts, kernel=4, stride=4), *blocks)
        self.norm = nn.BatchNorm1d(
            CHANNELS * 64
        )  # so that a dead forward signal is no handicap of the last layer
        self.last = nn.Linear(CHANNELS * 64, len(NAMES))
        init_weights(self, "he")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 32, 32) -> (B, classes)."""
        out: Tensor = self.last(self.norm(self.trunk(x)[:, :, :8, :8].flatten(1)))
        return out


def train(
    seed: int, settings: Mapping[str, Any], curve: Curve | Literal["frozen"] | None = None
) -> tuple[float, Curve]:
    """The loss over the last 20 steps, and the gradient's curve at each step.

    Args:
        seed: of weights and batches.
        settings: what is stripped from the trunk.
        curve: another run's, to be imposed on this one; `frozen`: the trunk stays as it is initialised.
    """
    model, (x, y) = Classifier(seed, **settings), crops("train", 512)
    layers = {f"{depth:02d}": module for depth, module in enumerate(model.trunk)}
    imposed = None
    if isinstance(curve, list):
        ratios = [{name: row[name] / row[list(layers)[-1]] for name in layers} for row in curve]
        imposed = ImposedProfile(layers, Profile("the lesson's", range(len(curve)), ratios))
    recorder = GradientRecorder(layers)
    learnt = model.last.parameters() if curve == "frozen" else model.parameters()
    optimizer = torch.optim.SGD(learnt, RATE, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    losses, own = [], []
    for step in range(STEPS_EACH):
        chosen = torch.randperm(len(x), generator=generator)[:32]
        if imposed is not None:
            imposed.begin(step)
        optimizer.zero_grad()
        with recorder:
            loss = F.cross_entropy(model(x[chosen]), y[chosen])
            loss.backward()
        for part in (model.trunk, model.last):  # apart, so that one's size does not starve the other
            nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        own.append(by_layer(recorder.measure(), Key.ACTIVATION_GRAD))
    return float(np.mean(losses[-20:])), own


def crossed() -> Found:
    """Forward pass and gradient curve of a healthy network and of sick ones, exchanged."""
    runs = {name: [train(seed, TRUNKS[name]) for seed in SEEDS] for name in ("baseline", *SICK)}
    found: dict[tuple[str, str], list[float]] = {}

    def cross(forward: str, curve: str) -> str:
        """Train one network with another's curve, or with a frozen trunk."""
        found[forward, curve] = [
            train(seed, TRUNKS[forward], "frozen" if curve == "frozen" else runs[curve][seed][1])[0]
            for seed in SEEDS
        ]
        return spread(found[forward, curve])

    rows = []
    for name in ("baseline", *SICK):
        found[name, "own"] = [loss for loss, _ in runs[name]]
        healthy = cross(name, "baseline") if name in SICK else ""
        rows.append((name, spread(found[name, "own"]), healthy, cross(name, "frozen")))
    rows += [(f"baseline, {name}'s curve", cross("baseline", name), "", "") for name in SICK]
    figure, axes = picture(height=4.2)
    labels = [
        f"{forward}\n{curve}{'' if curve in ('own', 'frozen') else chr(39) + 's'}" for forward, curve in found
    ]
    axes.barh(labels, [float(np.mean(losses)) for losses in found.values()], color="#0072B2")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=10)
    axes.set(xlabel="loss", xticks=(0, 0.5, 1, 1.5, 2), title="forward pass, and below it the curve")
    heads = ("forward pass of", "own curve", "baseline's curve", "trunk frozen")
    return Found(table(heads, rows) + f"\nloss after {STEPS_EACH} steps, n = {len(SEEDS)} seeds", figure)


STEPS = {"crossed": crossed}
