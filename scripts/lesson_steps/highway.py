"""Page 4: batch norm as a dam, the residual path as a highway, and gates."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch

from detector.analysis.theory import CARRY
from detector.gradients.probe import outputs_of
from detector.rows import Key
from scripts.lesson_steps.common import (
    SEEDS,
    TRUNKS,
    Found,
    network,
    picture,
    record,
    shapes,
    spread,
    table,
)


def norm() -> Found:
    """The size of the signal along the trunk, with a batch norm after every convolution and without."""
    figure, axes = picture()
    rows = []
    for name in TRUNKS:
        sizes = np.array([signal_sizes(network(seed, **TRUNKS[name])) for seed in SEEDS])
        found = [record(network(seed, **TRUNKS[name]), shapes()) for seed in SEEDS]
        axes.semilogy(np.median(sizes, axis=0), label=name)
        dependence = statistics.median(row[Key.INPUT_DEPENDENCE] for row in found)
        index = spread([row[Key.VANISHING_INDEX] for row in found], 2, "+")
        rows.append((name, f"{np.median(sizes[:, 0]):.2g}", f"{np.median(sizes[:, -1]):.2g}",
                     f"{dependence:.0e}", index))  # fmt: skip
    axes.set(xlabel="layer: 0 sees the image", ylabel="RMS of the activations")
    axes.legend(fontsize=10)
    heads = ("trunk", "RMS first", "RMS last", "I last", f"V, n = {len(SEEDS)}")
    return Found(table(heads, rows), figure)


def signal_sizes(model: torch.nn.Module) -> list[float]:
    """The RMS of every trunk layer's output."""
    layers = model.backbone_layers()  # type: ignore[operator]
    with torch.no_grad(), outputs_of(layers) as kept:
        model(shapes().images.float() / 255)
    return [float(kept[name].double().square().mean().sqrt()) for name in layers]


DEPTHS = {21: (1, 4, 2, 1), 41: (2, 10, 4, 2), 81: (4, 20, 9, 5)}


def residual() -> Found:
    """V at 21, 41 and 81 convolutions: a power of the depth with the shortcut, an exponential without."""
    figure, axes = picture()
    rows = []
    for name in ("baseline", "no_residual", "no_batchnorm", "plain_silu"):
        cells = {convs: indices(depths, TRUNKS[name]) for convs, depths in DEPTHS.items()}
        means = [statistics.fmean(values) for values in cells.values()]
        axes.plot(list(cells), means, "o-", label=name)
        rows.append((name, *(spread(values, 2, "+") for values in cells.values())))
    axes.axhline(0, color="black", linestyle=":", linewidth=1)
    axes.set(xlabel="convolutions in the trunk", ylabel="V, decades", xticks=list(DEPTHS))
    axes.legend()
    heads = ("trunk", *(f"V, {convs} convs" for convs in DEPTHS))
    return Found(table(heads, rows) + f"\nn = {len(SEEDS)} seeds, at initialisation", figure)


def indices(depths: tuple[int, ...], settings: dict[str, Any]) -> list[float]:
    """V of each seed."""
    pairs = ((seed, network(seed, depths=depths, **settings)) for seed in SEEDS)
    return [record(model, shapes())[Key.VANISHING_INDEX] for _, model in pairs]


def gates() -> Found:
    """What a gate carries past a branch that passes nothing on."""
    plain = {"norm": "none", "act": "sigmoid"}
    figure, axes = picture()
    rows = []
    for shortcut, name in (("none", "no shortcut"), ("gated", "highway gate"), ("residual", "residual")):
        found = [record(network(seed, shortcut=shortcut, **plain), shapes()) for seed in SEEDS]
        curves = np.array(
            [[value for key, value in row.items() if key.startswith(Key.ACTIVATION_GRAD)] for row in found]
        )
        inner = [(curve[4] / curve[12]) ** (1 / 8) for curve in curves]
        axes.semilogy(np.median(curves / curves[:, -1:], axis=0), label=name)
        rows.append((name, spread([row[Key.VANISHING_INDEX] for row in found], 2, "+"), spread(inner, 3)))
    axes.set(xlabel="layer: 0 sees the image, 22 is nearest the loss", ylabel="‖g‖ relative to layer 22")
    axes.legend()
    text = table(("sigmoid, no batch norm", f"V, n = {len(SEEDS)}", "factor of a block in P3"), rows)
    return Found(f"{text}\na gate that starts at σ(−1) carries 1 − σ(−1) = {1 - CARRY:.3f}", figure)


STEPS = {"norm": norm, "residual": residual, "gates": gates}
