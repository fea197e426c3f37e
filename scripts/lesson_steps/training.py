"""Page 5: learning rate, batch, overfitting; on a small classifier, so that a run takes a second."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.data.shapes import NAMES, render_image
from detector.gradients.recorder import GradientRecorder
from detector.rows import Key
from scripts.lesson_steps.common import SEEDS, Found, picture, spread, table, training_steps


@lru_cache
def crops(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Shapes cut out of the built-in set's images: (count, 3, 32, 32) about 0, and classes (count,)."""
    images: list[np.ndarray] = []
    classes: list[int] = []
    index = 0
    while len(images) < count:
        picture_, kinds, boxes = render_image(1, split, index, 128)
        for kind, (x, y, w, h) in zip(kinds, boxes * 128, strict=True):
            half = max(w, h) / 2
            top, left = int(max(y - half, 0)), int(max(x - half, 0))
            cut = picture_[top : int(y + half) + 1, left : int(x + half) + 1]
            images.append(cv2.resize(cut, (32, 32)))
            classes.append(int(kind))
        index += 1
    pixels = torch.from_numpy(np.stack(images[:count])).permute(0, 3, 1, 2).float() / 128 - 1
    return pixels, torch.tensor(classes[:count])


def classifier(seed: int, *, norm: bool = True, dropout: float = 0.0) -> nn.Sequential:
    """Three convolutions and a linear layer."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for c_in, c_out in ((3, 16), (16, 32), (32, 64)):
        layers += [
            nn.Conv2d(c_in, c_out, 3, 2, padding=1),
            nn.BatchNorm2d(c_out) if norm else nn.Identity(),
            nn.SiLU(),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(64 * 16, len(NAMES)))


def learn(
    model: nn.Sequential, data: tuple[Tensor, Tensor], steps: int, lr: float, seed: int, *,
    batch: int = 32, augment: bool = False,
) -> tuple[list[float], float]:  # fmt: skip
    """Train by SGD; the loss of each step, and the first convolution's median update ratio."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    recorder = GradientRecorder(model, layers=["0", "3", "6"])
    losses, ratios = [], []
    for _ in range(steps):
        chosen = torch.randperm(len(data[0]), generator=generator)[:batch]
        x, y = data[0][chosen], data[1][chosen]
        if augment:
            x = moved(x, generator)
        optimizer.zero_grad()
        with recorder:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
        ratios.append(recorder.measure()[f"{Key.UPDATE_RATIO}00_0"])
    return losses, float(np.median(ratios))


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """The same shapes mirrored, turned and shifted by up to four pixels, each by itself."""
    out = []
    for image in x:
        flip, turn, dx, dy = (int(torch.randint(n, (), generator=generator)) for n in (2, 4, 9, 9))
        image = image.flip(2) if flip else image
        image = F.pad(image.rot90(turn, (1, 2))[None], (4, 4, 4, 4), mode="replicate")[0]
        out.append(image[:, dy : dy + 32, dx : dx + 32])
    return torch.stack(out)


@torch.no_grad()
def accuracy(model: nn.Sequential, data: tuple[Tensor, Tensor]) -> float:
    """The share of right answers, in per cent."""
    return 100 * float((model.eval()(data[0]).argmax(1) == data[1]).float().mean())


RATES = (0.0001, 0.001, 0.01, 0.1, 1.0)


def learning_rate() -> Found:
    """The same 100 steps at five learning rates."""
    data = crops("train", 512)
    figure, axes = picture()
    rows = []
    for rate in RATES:
        runs = [learn(classifier(seed), data, training_steps(100), rate, seed) for seed in SEEDS]
        curves = np.array([losses for losses, _ in runs])
        smooth = [np.convolve(curve, np.ones(10) / 10, "valid") for curve in curves]
        axes.semilogy(np.mean(smooth, axis=0), label=f"{rate:g}")
        ratio = float(np.median([ratio for _, ratio in runs]))
        rows.append((f"{rate:g}", f"{ratio:.0e}", spread([float(np.mean(curve[-10:])) for curve in curves])))
    axes.axhline(math.log(len(NAMES)), color="black", linestyle=":", linewidth=1)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(title="learning rate", ncols=2, loc="lower left", fontsize=10)
    text = table(("learning rate", "update ratio", f"loss at the end, n = {len(SEEDS)}"), rows)
    return Found(f"{text}\nguessing: ln 8 = {math.log(len(NAMES)):.2f}", figure)


def batch() -> Found:
    """How far the gradient of a batch is from that of all images."""
    data = crops("train", 512)
    sizes = (1, 4, 16, 64, 256)
    noise = []
    for seed in SEEDS:
        model = classifier(seed, norm=False)
        whole = gradient(model, *data)
        generator = torch.Generator().manual_seed(seed)
        noise.append([
            float(np.mean([
                float((gradient(model, data[0][chosen], data[1][chosen]) - whole).norm() / whole.norm())
                for chosen in (torch.randint(512, (size,), generator=generator) for _ in range(20))
            ])) for size in sizes
        ])  # fmt: skip
    means = np.mean(noise, axis=0)
    figure, axes = picture()
    axes.loglog(sizes, means, "o-", label="measured")
    axes.loglog(sizes, means[2] * np.sqrt(16 / np.array(sizes)), "k:", label="∝ 1/√B")
    axes.set(
        xlabel="images in the batch, B",
        ylabel="‖g(batch) − g(all)‖ / ‖g(all)‖",
        xticks=sizes,
        xticklabels=sizes,
    )
    axes.set(yticks=(2, 5, 10, 20), yticklabels=(2, 5, 10, 20))
    axes.minorticks_off()
    axes.legend()
    rows = [(str(size), str(512 // size), spread([n[i] for n in noise])) for i, size in enumerate(sizes)]
    heads = ("batch", "steps an epoch", f"noise / gradient, n = {len(SEEDS)}")
    slope = float(np.polyfit(np.log(sizes), np.log(means), 1)[0])
    return Found(f"{table(heads, rows)}\nexponent: {slope:.2f}, and −0.5 by theory", figure)


def gradient(model: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """dL/dw of all weights as one vector."""
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))]
    )


def overfit() -> Found:
    """128 images learnt by heart, against augmentation, dropout and four times the images."""
    unseen = crops("val", 512)
    figure, axes = picture()
    rows, bars = [], []
    for name, count, options, augment in (
        ("128 images", 128, 0.0, False),
        ("+ dropout 0.5", 128, 0.5, False),
        ("+ augmentation", 128, 0.0, True),
        ("512 images", 512, 0.0, False),
    ):
        data = crops("train", count)
        results = []
        for seed in SEEDS:
            model = classifier(seed, dropout=options)
            learn(model, data, training_steps(300), 0.03, seed, augment=augment)
            results.append((accuracy(model, data), accuracy(model, unseen)))
        seen, new = zip(*results, strict=True)
        bars.append((np.mean(seen), np.mean(new)))
        rows.append((name, *(spread(values, 0) + " %" for values in (seen, new)),
                     f"{np.mean(seen) - np.mean(new):.0f}"))  # fmt: skip
    for kind, (label, colour) in enumerate((("seen images", "#56B4E9"), ("unseen images", "#0072B2"))):
        axes.bar(
            np.arange(4) + (kind - 0.5) * 0.38, [bar[kind] for bar in bars], 0.36, color=colour, label=label
        )
    axes.set(ylabel="right, %", ylim=(0, 118), xticks=range(4))
    axes.set_xticklabels(["128", "128\n+ dropout", "128 +\naugment.", "512"])
    axes.legend(ncols=2, loc="upper center")
    heads = ("trained on", "seen", "unseen", "gap")
    return Found(table(heads, rows) + f"\nn = {len(SEEDS)} seeds, 300 steps, 8 classes", figure)


STEPS = {"learning_rate": learning_rate, "batch": batch, "overfit": overfit}
