"""Page 3: gradients that explode, clipping, and initialisation."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from detector.rows import Key, by_layer
from scripts.lesson_steps.common import (
    SEEDS,
    TRUNKS,
    Found,
    backward,
    fit,
    network,
    picture,
    record,
    shapes,
    spread,
    table,
)


def explode() -> Found:
    """A trunk whose gradient grows towards the image, layer by layer."""
    figure, axes = picture()
    rows = []
    for name in ("no_residual", "no_batchnorm", "baseline"):
        found = [record(network(seed, **TRUNKS[name]), shapes()) for seed in SEEDS]
        curves = np.array([list(by_layer(row, Key.ACTIVATION_GRAD).values()) for row in found])
        axes.semilogy(np.median(curves / curves[:, -1:], axis=0), label=name)
        steps = [
            (curve[4] / curve[12]) ** (1 / 16) for curve in curves
        ]  # P3's blocks 1 to 9, two layers each
        rows.append((name, spread([row[Key.VANISHING_INDEX] for row in found], 2, "+"), spread(steps, 3)))
    axes.axhline(1, color="black", linestyle=":", linewidth=1)
    axes.set(xlabel="layer: 0 sees the image, 22 is nearest the loss", ylabel="‖g‖ relative to layer 22")
    axes.legend()
    return Found(table(("trunk", f"V, n = {len(SEEDS)}", "factor of a layer in P3"), rows), figure)


def clip() -> Found:
    """Training without batch norm, with clipping and without; and what clipping leaves as it is."""
    settings = {"norm": "none"}
    figure, axes = picture()
    rows = []
    for limit, name in ((None, "no clipping"), (10.0, "clip 10")):
        curves = [fit(network(seed, **settings), shapes(), 20, 0.1, limit) for seed in SEEDS]
        for curve in curves:
            axes.semilogy(curve, color="#D55E00" if limit is None else "#0072B2",
                          label=name if curve is curves[0] else None)  # fmt: skip
        finite = [sum(math.isfinite(loss) for loss in curve) for curve in curves]
        ends = [float(np.mean(curve[-5:])) for curve in curves]
        last = spread(ends, 1) if all(map(math.isfinite, ends)) else "–"
        rows.append((name, ", ".join(map(str, finite)), last))
    axes.set(xlabel="step", ylabel="loss", xticks=range(0, 20, 5))
    axes.legend()

    model = network(0, **settings)
    backward(model, shapes())
    before = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), 10.0))
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    cosine = float(nn.functional.cosine_similarity(before.double(), after.double(), dim=0))
    text = table(("without batch norm", "finite steps of 20", "loss at the end"), rows)
    sizes = f"{norm:.0f} before, {float(after.norm()):.1f} after"
    return Found(
        f"{text}\nn = {len(SEEDS)} seeds\n\nfirst step, ‖g‖: {sizes}; cosine between them: {cosine:.6f}",
        figure,
    )


SCHEMES = ("naive", "default", "xavier", "he")


def init() -> Found:
    """Initialisation, with a batch norm and without: the signal forward, the gradient back."""
    rows = []
    figure, axes = picture(2, height=2.7, sharex=True)
    for scheme in SCHEMES:
        cells = []
        for parts in ({"shortcut": "none", "norm": "none", "act": "relu"}, {}):
            found = [record(network(seed, init=scheme, **parts), shapes()) for seed in SEEDS]
            cells += [f"{np.median([row[f'{Key.RMS}_p5'] for row in found]):.1e}",
                      spread([row[Key.VANISHING_INDEX] for row in found], 2, "+")]  # fmt: skip
            curves = np.array([list(by_layer(row, Key.ACTIVATION_GRAD).values()) for row in found])
            axes[1 if not parts else 0].semilogy(np.median(curves / curves[:, -1:], axis=0), label=scheme)
        rows.append((scheme, *cells))
    axes[0].set(title="plain_relu: no shortcut, no batch norm", ylabel="‖g‖ / last")
    axes[0].legend(ncols=2, fontsize=10)
    axes[1].set(title="baseline", ylabel="‖g‖ / last", xlabel="layer: 0 sees the image", ylim=(1e-2, 1e2))
    heads = ("init", "plain_relu RMS", "V", "baseline RMS", "V")
    return Found(table(heads, rows) + f"\nRMS of P5's signal, median; V, n = {len(SEEDS)} seeds", figure)


STEPS = {"explode": explode, "clip": clip, "init": init}
