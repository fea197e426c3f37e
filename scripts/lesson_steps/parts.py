"""Page 6: what a detector is made of: filters, strides, padding, heads."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.gradients.probe import outputs_of
from detector.models.init import drawing
from scripts.lesson_steps.common import (
    SEEDS,
    Found,
    backward,
    network,
    picture,
    shapes,
    spread,
    table,
)


def filter_() -> Found:
    """A filter is a small template that is shown everywhere: an edge filter, counted and shifted."""
    image = shapes(4, 128).images[1].float().mean(0, keepdim=True)[None] / 255  # (1, 1, S, S) grey
    edges = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).view(1, 1, 3, 3)
    found = F.conv2d(image, edges, padding=1)
    shifted = F.conv2d(image.roll(5, 3), edges, padding=1)
    inside = slice(8, -8)
    gap = float((shifted.roll(-5, 3) - found)[..., inside, inside].abs().max())
    ours = cv2.Sobel(image[0, 0].numpy(), cv2.CV_32F, 1, 0, ksize=3)[inside, inside]
    difference = float(np.abs(ours - found[0, 0, inside, inside].numpy()).max())
    figure, axes = picture(1, 2, height=2.8)
    for axis, pixels, title, colours in (
        (axes[0], image, "image", "gray"),
        (axes[1], found, "filtered", "RdBu"),
    ):
        limit = float(pixels.abs().max())
        axis.imshow(pixels[0, 0], cmap=colours, vmin=0 if colours == "gray" else -limit, vmax=limit)
        axis.set(title=title, xticks=[], yticks=[])
        axis.grid(False)
    conv, dense = 48 * 48 * 9, (48 * 32 * 32) ** 2
    rows = [("largest difference to OpenCV's Sobel", f"{difference:.0e}"),
            ("image 5 px to the right: answer 5 px to the right, difference", f"{gap:.0e}"),
            ("weights of a 3×3 convolution, 48 → 48 channels", f"{conv:,}"),
            ("weights if every pixel of 32×32 were joined to every other", f"{dense:,}")]  # fmt: skip
    return Found(table(("", ""), rows).lstrip("\n "), figure)


def pooling() -> Found:
    """Halving the resolution: how many positions get a gradient, and how far a cell of P3, P4, P5 sees."""
    rows = []
    halvings: dict[str, nn.Module] = {
        "max pooling 2×2": nn.MaxPool2d(2),
        "average pooling 2×2": nn.AvgPool2d(2),
        "convolution 3×3, stride 2 (ours)": nn.Conv2d(16, 16, 3, 2, padding=1),
        "convolution 1×1, stride 2": nn.Conv2d(16, 16, 1, 2),
    }
    torch.manual_seed(0)
    for name, halve in halvings.items():
        if isinstance(halve, nn.Conv2d):
            drawing("he")(halve)
        x = torch.randn(4, 16, 32, 32, requires_grad=True)
        out = halve(x)
        start = torch.randn_like(out)
        out.backward(start)
        assert x.grad is not None
        rows.append((name, f"{100 * float((x.grad != 0).float().mean()):.0f} %",
                     f"{float(x.grad.norm() / start.norm()):.2f}"))  # fmt: skip
    figure, axes = picture(1, 3, height=2.0)
    spans = []
    for axis, level in zip(axes, ("p3", "p4", "p5"), strict=True):
        maps = torch.stack([seen_by(level, seed) for seed in SEEDS])
        spans.append((level, *(f"{width:.0f} px" for width in widths(maps.mean(0)))))
        axis.imshow(maps.mean(0).clamp_min(1e-12).log10(), cmap="magma", vmin=-6, vmax=0)
        axis.set(title=level.upper(), xticks=[], yticks=[])
        axis.grid(False)
    text = table(("", "positions with a gradient", "‖g in‖ / ‖g out‖"), rows)
    heads = ("a cell of", "could see", "half of its gradient is within")
    return Found(f"{text}\n\n{table(heads, spans)}\nof 256 px, n = {len(SEEDS)} seeds", figure)


def seen_by(level: str, seed: int) -> Tensor:
    """The squared gradient of the middle cell of a trunk level, by pixel: (256, 256), its largest 1."""
    model = network(seed)
    images = (shapes(2, 256).images.float() / 255).requires_grad_()
    with outputs_of({level: model.backbone_layers()[model.level_ends()[level]]}) as kept:
        model(images)
    middle = kept[level][:, :, kept[level].shape[2] // 2, kept[level].shape[3] // 2]
    (grad,) = torch.autograd.grad((middle * torch.randn_like(middle)).sum(), images)
    power = grad.square().sum((0, 1))
    return power / power.max()


def widths(power: Tensor) -> tuple[int, int]:
    """The side of the square of all pixels with a gradient above 1e-12, and of one that has half of it."""
    seen = (power > 1e-12).any(0).nonzero()
    total = float(power.sum())
    middle, row = (int((power.sum(along).cumsum(0) < total / 2).sum()) for along in (0, 1))
    for half in range(1, 257):
        box = power[max(row - half, 0) : row + half + 1, max(middle - half, 0) : middle + half + 1]
        if float(box.sum()) >= total / 2:
            return int(seen[-1] - seen[0]) + 1, 2 * half + 1
    return 256, 256


def padding() -> Found:
    """Zero padding gives an image of nothing a pattern: grey images through the trunk."""
    rows = []
    figure, axes = picture(1, 2, height=2.8)
    for axis, mode in zip(axes, ("zeros", "replicate"), strict=True):
        variations = []
        for seed in SEEDS:
            model = network(
                seed
            ).eval()  # batch norm as the identity: a grey batch has no variance to divide by
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    module.padding_mode = mode
                    module._reversed_padding_repeated_twice = [
                        p for p in module.padding[::-1] for _ in (0, 1)
                    ]
            with (
                torch.no_grad(),
                outputs_of({"p3": model.backbone_layers()[model.level_ends()["p3"]]}) as kept,
            ):
                model(torch.full((1, 3, 256, 256), 0.5))
            out = kept["p3"][0].double()
            variations.append(
                float(out.std((1, 2), correction=0).square().mean().sqrt() / out.square().mean().sqrt())
            )
        axis.imshow(out.square().mean(0).sqrt(), cmap="viridis")
        axis.set(title=f"padding: {mode}", xticks=[], yticks=[])
        axis.grid(False)
        rows.append((mode, spread(variations, 3)))
    return Found(table(("padding", f"variation over the cells of P3 / RMS, n = {len(SEEDS)}"), rows), figure)


def heads() -> Found:
    """Which of the three heads gets a gradient before anything is learnt."""
    strides = (8, 16, 32)
    found = []
    for seed in SEEDS:
        model = network(seed)
        backward(model, shapes(8, 256))
        found.append(
            [
                [float(branch[scale][-1].weight.grad.norm()) for scale in range(3)]  # type: ignore[index, union-attr]
                for branch in (model.head.box, model.head.cls)
            ]
        )
    norms = np.array(found)  # (seeds, box and class, scales)
    figure, axes = picture()
    for kind, (name, colour) in enumerate((("box", "#0072B2"), ("class", "#D55E00"))):
        axes.bar(np.arange(3) + (kind - 0.5) * 0.35, norms[:, kind].mean(0), 0.33,
                 color=colour, label=name)  # fmt: skip
    axes.set(yscale="log", ylim=(3e-2, 50), ylabel="‖dL/dw‖ of the last layer", xticks=range(3))
    for scale in np.flatnonzero(norms[:, 0].mean(0) == 0):
        axes.text(scale - 0.175, 4e-2, "0", color="#0072B2", ha="center")
    axes.set_xticklabels([f"P{scale + 3}, stride {stride}" for scale, stride in enumerate(strides)])
    axes.legend()
    rows = [
        (
            f"P{scale + 3}",
            str(stride),
            str((256 // stride) ** 2),
            *(spread(list(norms[:, kind, scale]), 1) for kind in (0, 1)),
        )
        for scale, stride in enumerate(strides)
    ]
    return Found(
        table(("head", "stride", "cells", "‖dL/dw‖ box", "‖dL/dw‖ class"), rows)
        + f"\nn = {len(SEEDS)} seeds",
        figure,
    )


STEPS = {"filter": filter_, "pooling": pooling, "padding": padding, "heads": heads}
