"""Page 2: activations, dead units, and weights that freeze."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from detector.analysis.theory import FUNCTIONS, Function, expectation, layer_factor
from detector.gradients.units import FLAT, slope, watch_units
from detector.rows import Key, by_layer
from scripts.lesson_steps.common import (
    SEEDS,
    Found,
    backward,
    network,
    picture,
    record,
    shapes,
    spread,
    table,
    training_steps,
)

ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "silu")
WIDTH, LAYERS = 512, 20


def slopes() -> Found:
    """Each activation's slope, and what one layer of it passes on: by theory, and in 20 layers."""
    grid = np.linspace(-5, 5, 401)
    figure, axes = picture(2, height=2.7, sharex=True)
    rows = []
    for name in ACTIVATIONS:
        value, curve = FUNCTIONS[name]
        axes[0].plot(grid, value(grid), label=name)
        axes[1].plot(grid, curve(grid), label=name)
        typical = root_mean_square(curve)
        measured = [passed_on(name, seed) for seed in SEEDS]
        rows.append((name, f"{curve(grid).max():.2f}", f"{typical:.2f}",
                     f"{layer_factor(name, 'none', 2.0):.3f}", spread(measured, 3)))  # fmt: skip
    axes[0].set(ylabel="φ(x)", ylim=(-1.2, 3))
    axes[1].set(ylabel="slope φ′(x)", xlabel="x")
    axes[1].legend(ncols=2, loc="upper left", fontsize=10)
    heads = ("activation", "steepest", "typical", "theory", f"measured, n = {len(SEEDS)}")
    return Found(table(heads, rows), figure)


def root_mean_square(curve: Function) -> float:
    """√E[φ'(z)²] for z ~ N(0, 1)."""
    return math.sqrt(expectation(lambda z: curve(z) ** 2))


def passed_on(name: str, seed: int) -> float:
    """The backward factor of one layer: of a random network of 20 layers, the first five left out."""
    modules = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}
    act = modules[name]() if name in modules else nn.LeakyReLU(0.1)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(32, WIDTH, generator=generator, dtype=torch.float64)
    kept: list[Tensor] = []
    for _ in range(LAYERS + 1):
        x = x.detach().requires_grad_() if not kept else x
        x.retain_grad()
        kept.append(x)
        weight = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) * math.sqrt(2 / WIDTH)
        x = act(x @ weight)
    (x * torch.randn(x.shape, generator=generator)).sum().backward()
    first, last = (float(k.grad.norm()) for k in (kept[5], kept[-1]))  # type: ignore[union-attr]
    return (first / last) ** (1 / (LAYERS - 5))


RATES = (0.003, 0.03, 0.1)
RECTIFIERS = {"ReLU": nn.ReLU(), "leaky ReLU": nn.LeakyReLU(0.1), "SiLU": nn.SiLU()}


def dead() -> Found:
    """Units that die while a small network learns a wave, by activation and learning rate."""
    figure, axes = picture()
    rows = []
    for name, act in RECTIFIERS.items():
        runs = {rate: [learn_a_wave(act, rate, seed) for seed in range(5)] for rate in RATES}
        fastest = runs[RATES[-1]]
        shares = np.mean([deaths for deaths, _ in fastest], axis=0)
        axes.plot(20 * np.arange(len(shares)), 100 * shares, label=name)
        cells = [spread([100 * deaths[-1] for deaths, _ in runs[rate]], 0) + " %" for rate in RATES]
        rows.append((name, *cells, spread([loss for _, loss in fastest], 3)))
    axes.set(xlabel="step", ylabel="% of units that are dead", ylim=(-4, 104))
    axes.set_title(f"Adam, learning rate {RATES[-1]}")
    axes.legend()
    heads = ("dead after 300 steps", *(f"lr {rate}" for rate in RATES), f"loss, lr {RATES[-1]}")
    return Found(table(heads, rows) + "\nn = 5 seeds", figure)


def learn_a_wave(act: nn.Module, rate: float, seed: int) -> tuple[list[float], float]:
    """Fit sin(3x) by two layers of 64 units: the share of dead ones every 20 steps, and the loss at the end.

    Dead as in `detector.gradients.units`: |φ'| < 0.01 for all 256 inputs.
    """
    torch.manual_seed(seed)
    layers = nn.Linear(1, 64), nn.Linear(64, 64), nn.Linear(64, 1)
    x = torch.linspace(-2, 2, 256)[:, None]
    y = torch.sin(3 * x)
    optimizer = torch.optim.Adam([p for layer in layers for p in layer.parameters()], rate)
    deaths, loss = [], math.nan
    for step in range(training_steps(300) + 1):
        optimizer.zero_grad()
        z1 = layers[0](x)
        z2 = layers[1](act(z1))
        error = (layers[2](act(z2)) - y).square().mean()
        error.backward()
        if step % 20 == 0:
            flat = [(slope(act, z).abs() < FLAT).all(0) for z in (z1, z2)]
            deaths.append(float(torch.cat(flat).float().mean()))
        optimizer.step()
        loss = error.item()
    return deaths, loss


CELLS = {
    "plain_sigmoid": {"shortcut": "none", "norm": "none", "act": "sigmoid"},
    "sigmoid": {"act": "sigmoid"},
    "tanh": {"act": "tanh"},
    "relu": {"act": "relu"},
    "baseline": {},
}


def saturation() -> Found:
    """Dead and saturated units in the detector's trunk, beside its vanishing index."""
    rows, points = [], []
    for name, settings in CELLS.items():
        counts, indices = [], []
        for seed in SEEDS:
            model = network(seed, **settings)
            with torch.no_grad(), watch_units(model.backbone_layers()) as units:
                model(shapes().images.float() / 255)
            found = units()
            counts.append([float(np.mean(list(by_layer(found, kind).values())))
                           for kind in (Key.DEAD_UNITS, Key.SATURATION)])  # fmt: skip
            indices.append(record(network(seed, **settings), shapes())[Key.VANISHING_INDEX])
        dead_share, flat = np.mean(counts, axis=0) * 100
        points.append((flat, np.mean(indices)))
        rows.append((name, spread(indices, 2, "+"), f"{dead_share:.1f} %", f"{flat:.1f} %"))
    figure, axes = picture()
    for (flat, index), name in zip(points, CELLS, strict=True):
        axes.plot(flat, index, "o", markersize=9, label=name)
    axes.set(xlabel="% of activations without a slope (saturated)", ylabel="V, decades", xlim=(-3, 60))
    axes.legend()
    heads = ("trunk", f"V, n = {len(SEEDS)}", "dead", "saturated")
    return Found(table(heads, rows), figure)


def freeze() -> Found:
    """One step of SGD: how far each layer's weights move, and how many of them move at all."""
    figure, axes = picture(2, height=2.7, sharex=True)
    rows = []
    for name in ("plain_sigmoid", "baseline"):
        ratios, shares = [], []
        for seed in SEEDS:
            ratio, share = one_step(seed, CELLS[name])
            ratios.append(ratio)
            shares.append(share)
        middle, moved = np.median(ratios, axis=0), np.mean(shares, axis=0) * 100
        axes[0].semilogy(np.maximum(middle, 1e-17), label=name)
        axes[1].plot(moved, label=name)
        rows.append(
            (name, f"{middle[0]:.1e}", f"{middle[-1]:.1e}", f"{moved[0]:.0f} %", f"{moved[-1]:.0f} %")
        )
    axes[0].set(ylabel="update ratio ‖Δw‖ / ‖w‖")
    axes[0].axhline(2**-24, color="black", linestyle=":", linewidth=1)
    axes[1].set(xlabel="layer: 0 sees the image", ylabel="% of weights that changed", ylim=(-4, 104))
    axes[1].legend(loc="center left")
    heads = ("", "‖Δw‖/‖w‖ first", "last", "changed, first", "last")
    return Found(
        table(heads, rows) + f"\nn = {len(SEEDS)} seeds, one step of SGD, learning rate 0.02", figure
    )


def one_step(seed: int, settings: dict[str, str]) -> tuple[list[float], list[float]]:
    """By layer: ‖Δw‖ / ‖w‖ in float64, and the share of the float32 weights that are another number."""
    model = network(seed, **settings)
    backward(model, shapes())
    ratios, shares = [], []
    for layer in model.backbone_layers().values():
        weights = [p for p in layer.parameters() if p.dim() > 1]
        changes = [0.02 * p.grad.double() for p in weights if p.grad is not None]
        moved = [(p.detach() - 0.02 * p.grad != p.detach()).float() for p in weights if p.grad is not None]
        size = torch.cat([p.detach().double().flatten() for p in weights]).norm()
        ratios.append(float(torch.cat([c.flatten() for c in changes]).norm() / size))
        shares.append(float(torch.cat([m.flatten() for m in moved]).mean()))
    return ratios, shares


STEPS = {"slopes": slopes, "dead": dead, "saturation": saturation, "freeze": freeze}
