"""Theory against measurement: published backward factors, wide random networks, and the detector's trunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.analysis.theory import batch_norm_factor, layer_factor, residual_ratio
from detector.analysis.trunk_theory import block_factors, measured_factor, stage_factor
from detector.config.schema import ModelConfig
from detector.gradients.recorder import GradientRecorder
from detector.models.blocks import ACTIVATIONS
from detector.models.curve import curve_of
from detector.models.detector import build_detector

WIDTH = BATCH = 512
LAYERS = 30
SEEDS = (0, 1, 2)
TOLERANCE, TOLERANCE_CHAIN = 0.02, 0.05  # of a layer's factor; of a whole chain's, a product of many


@dataclass(frozen=True)
class Check:
    """One line of the table: what was expected, and what a network did."""

    what: str
    source: str  # whose formula it is; empty where it follows from the project's own theory
    predicted: float  # by that formula, evaluated here
    measured: tuple[float, ...]  # one a seed
    published: float | None = None  # a number that stands in the paper itself
    tolerance: float = TOLERANCE

    @property
    def difference(self) -> float:
        """The measured mean against the published number, or else the predicted one, as a fraction."""
        return fmean(self.measured) / (self.published or self.predicted) - 1

    @property
    def holds(self) -> bool:
        """Whether they agree within the tolerance."""
        return abs(self.difference) <= self.tolerance

    def __str__(self) -> str:
        """A row under `HEADER`."""

        def written(value: float | None) -> str:
            return "" if value is None else f"{value:.{0 if abs(value) >= 1000 else 4}f}"

        spread = f"±{written(stdev(self.measured))}" if len(self.measured) > 1 else ""
        note = "" if self.holds else "  theory misses"
        published, formula, mean = map(written, (self.published, self.predicted, fmean(self.measured)))
        row = f"{self.what:34s} {published:>9s} {formula:>9s} {mean:>9s} {spread:8s}"
        return f"{row} {100 * self.difference:+6.1f} %  {self.source}{note}".rstrip()


HEADER = f"{'':34s} {'published':>9s} {'formula':>9s} {'measured':>9s} {'':8s} {'differs':>8s}"

# What, activation, norm, gain, the factor that the paper prints if it does, whose formula it is.
PLAIN: tuple[tuple[str, str, str, float, float | None, str], ...] = (
    ("ReLU + batch norm", "relu", "batch", 2, math.sqrt(math.pi / (math.pi - 1)), "Yang et al. 2019"),
    ("sigmoid, gain 2 (He)", "sigmoid", "none", 2, None, "Schoenholz et al. 2017"),
    ("sigmoid, gain 1 (Xavier)", "sigmoid", "none", 1, None, "Schoenholz et al. 2017"),
    ("ReLU, gain 2 (He)", "relu", "none", 2, 1.0, "He et al. 2015"),
    ("ReLU, gain 1", "relu", "none", 1, None, "He et al. 2015"),
    ("SiLU + batch norm", "silu", "batch", 2, None, ""),
    ("sigmoid + batch norm", "sigmoid", "batch", 2, None, ""),
    ("SiLU, gain 2 (He)", "silu", "none", 2, None, ""),
    ("SiLU, gain 1/3 (torch)", "silu", "none", 1 / 3, None, ""),
    ("tanh, gain 1", "tanh", "none", 1, None, ""),
)


def check_plain(seeds: Sequence[int] = SEEDS) -> Iterator[Check]:
    """A plain layer's factor in fully connected networks: layers 5 to 25 of 30, width and batch 512."""
    for what, act, norm, gain, published, source in PLAIN:
        predicted = batch_norm_factor(act) if norm == "batch" else layer_factor(act, norm, gain)
        measured = []
        for seed in seeds:
            norms = chain_norms(act, norm, gain, seed)
            measured.append((norms[4] / norms[24]) ** (1 / 20))
        yield Check(what, source, predicted, tuple(measured), published)


def check_residual(
    seeds: Sequence[int] = SEEDS, blocks: Sequence[int] = (4, 10, 24), width: int = 256
) -> Iterator[Check]:
    """‖g(first)‖ / ‖g(last)‖ over residual blocks with batch norm grows as a polynomial in depth."""
    for act, name in (("relu", "ReLU"), ("tanh", "tanh"), ("silu", "SiLU")):
        chains = [residual_norms(act, max(blocks), seed, width) for seed in seeds]
        for count in blocks:
            measured = tuple(norms[0] / norms[count] for norms in chains)
            predicted = residual_ratio(act, "batch", count)
            yield Check(f"{name}, {count} blocks", "", predicted, measured, tolerance=TOLERANCE_CHAIN)


def chain_norms(act: str, norm: str, gain: float, seed: int) -> list[float]:
    """‖dL/d(output)‖ of each layer of a plain chain on white input, for a random linear loss."""
    generator = torch.Generator().manual_seed(seed)
    function, outputs = ACTIVATIONS[act](), []
    h = torch.randn(BATCH, WIDTH, generator=generator).requires_grad_()
    for _ in range(LAYERS):
        h = function(_affine(h, norm, gain, generator))
        outputs.append(h)
    return _norms(outputs, generator)


def residual_norms(act: str, blocks: int, seed: int, width: int = WIDTH) -> list[float]:
    """The same at the input of a chain of residual blocks of two batch-normed layers, and after each."""
    generator = torch.Generator().manual_seed(seed)
    function = ACTIVATIONS[act]()

    def layer(h: Tensor) -> Tensor:
        out: Tensor = function(_affine(h, "batch", 2.0, generator))
        return out

    h = layer(torch.randn(BATCH, width, generator=generator).requires_grad_())
    outputs = [h]
    for _ in range(blocks):
        h = h + layer(layer(h))
        outputs.append(h)
    return _norms(outputs, generator)


def _affine(h: Tensor, norm: str, gain: float, generator: torch.Generator) -> Tensor:
    width = h.shape[1]
    z = h @ torch.randn(width, width, generator=generator) * math.sqrt(gain / width)  # (BATCH, width)
    return F.batch_norm(z, None, None, training=True, eps=1e-8) if norm == "batch" else z


def _norms(outputs: Sequence[Tensor], generator: torch.Generator) -> list[float]:
    loss = (outputs[-1] * torch.randn(outputs[-1].shape, generator=generator)).sum()
    grads = torch.autograd.grad(loss, outputs)
    return [float(torch.linalg.vector_norm(g, dtype=torch.float64)) for g in grads]


# What the trunk is built with, beside its defaults: SiLU, batch norm, shortcut, He.
TRUNKS: dict[str, dict[str, str]] = {
    "baseline": {},
    "no shortcut": {"shortcut": "none"},
    "no shortcut, ReLU": {"shortcut": "none", "act": "relu"},
    "no shortcut, sigmoid": {"shortcut": "none", "act": "sigmoid"},
    "no batch norm": {"norm": "none"},
    "highway gate": {"shortcut": "gated"},
    "group norm": {"norm": "group"},
    "no shortcut, group norm": {"shortcut": "none", "norm": "group"},
    "plain SiLU": {"shortcut": "none", "norm": "none"},
    "plain SiLU, torch's init": {"shortcut": "none", "norm": "none", "init": "default"},
    "plain SiLU, Xavier": {"shortcut": "none", "norm": "none", "init": "xavier"},
    "plain ReLU": {"shortcut": "none", "norm": "none", "act": "relu"},
    "plain sigmoid": {"shortcut": "none", "norm": "none", "act": "sigmoid"},
    "plain sigmoid, standard. weights": {"shortcut": "none", "norm": "weight", "act": "sigmoid"},
    "plain tailored ReLU, orthogonal": {
        "shortcut": "none", "norm": "none", "act": "tailored_relu", "init": "delta_orthogonal",
    },
    "SkipInit, no batch norm": {"shortcut": "skipinit", "norm": "none"},
}  # fmt: skip

Backward = Callable[[torch.nn.Module], object]


def check_backbone(model: ModelConfig, passes: Callable[[int], Backward], classes: int) -> Iterator[Check]:
    """The factor of one layer of the trunk's P3 stage, for the combinations of `TRUNKS`.

    Args:
        model: sizes; its components are replaced.
        passes: seed -> a forward and backward pass of the detector on a batch.
        classes: how many the head scores.
    """
    size = {key: getattr(model, key) for key in ("depths", "widths", "neck_width", "reg_max")}
    for what, components in TRUNKS.items():
        config = ModelConfig.model_validate(size | components)
        measured = tuple(backbone_factor(config, classes, passes(seed), seed) for seed in SEEDS)
        act = curve_of(config.act, config)
        yield Check(what, "", stage_factor(block_factors(config, act=act)), measured)


def backbone_factor(config: ModelConfig, classes: int, backward: Backward, seed: int) -> float:
    """Build a detector, run one pass and measure its P3 stage."""
    torch.manual_seed(seed)
    detector = build_detector(config, classes)
    recorder = GradientRecorder(detector.backbone_layers())
    recorder.begin()
    backward(detector)
    recorder.gradients()
    return measured_factor(recorder.end())
