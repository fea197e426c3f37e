"""Activations tailored to the depth of a chain, so that it trains with neither shortcut nor batch norm.

In a wide random layer whose inputs all have power 1, two inputs of cosine c leave with the cosine C(c), the
activation's C map. Over many layers C composes with itself and, for the usual activations, takes every pair
to the same cosine: the trunk's output no longer depends on the image. TAT (Zhang et al. 2022, "Deep Learning
without Shortcuts: Shaping the Kernel with Tailored Rectifiers", arXiv:2203.08120) chooses an activation whose
C map stays close to the identity over the depth at hand, and that keeps the power, Q(1) = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detector.config.schema import ModelConfig

ETA = 0.9  # C_f(0) of the whole chain, the paper's value: orthogonal inputs leave with this cosine
TAU = 0.3  # C_f''(1) of the whole chain, the paper's value for smooth activations


class TailoredReLU(nn.Module):
    """√(2 / (1 + a²)) · leaky ReLU of slope a below 0: keeps E[x²] of centred Gaussian inputs.

    Args:
        slope: a, from 0 (ReLU) to 1 (the identity).
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope, self.scale = slope, math.sqrt(2 / (1 + slope**2))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return nn.functional.leaky_relu(x, self.slope) * self.scale


class TailoredTanh(nn.Module):
    """γ·(tanh(α·x + β) + δ), the four numbers from `tanh_parameters`.

    Args:
        layers: of the chain that it is for.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.alpha, self.beta, self.gamma, self.delta = tanh_parameters(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return self.gamma * (torch.tanh(self.alpha * x + self.beta) + self.delta)


def tailored(config: ModelConfig) -> dict[str, Callable[[], nn.Module]]:
    """The factories of the activations that depend on the rest of a configuration, by name.

    The chain is the trunk without its shortcuts: the stem, four stride-2 units, and two units a block.
    """
    layers = 5 + 2 * sum(config.depths)

    def relu() -> nn.Module:
        return TailoredReLU(relu_slope(layers) if config.act_slope is None else config.act_slope)

    return {"tailored_relu": relu, "tailored_tanh": lambda: TailoredTanh(layers)}


def relu_map(cosine: float, slope: float) -> float:
    """C(c) of a leaky ReLU: c + (1 - a)² / (π(1 + a²)) · (√(1 - c²) - c·arccos c) (Zhang et al. 2022, eq. 9).

    For a = 0 this is the arc-cosine kernel of Cho & Saul 2009.
    """
    angle = math.sqrt(1 - cosine**2) - cosine * math.acos(cosine)
    return cosine + (1 - slope) ** 2 / (math.pi * (1 + slope**2)) * angle


@lru_cache
def relu_slope(layers: int, eta: float = ETA) -> float:
    """The slope a with which two orthogonal inputs leave a chain of so many layers with cosine `eta`.

    C_f(0) falls from ReLU's value to 0 as a rises to 1. Where even ReLU stays below `eta`, which it does in a
    chain of a few layers, a is 0.
    """

    def leaves_with(slope: float) -> float:
        cosine = 0.0
        for _ in range(layers):
            cosine = min(1.0, relu_map(cosine, slope))
        return cosine

    low, high = 0.0, 1.0
    if leaves_with(low) <= eta:
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if leaves_with(middle) > eta else (low, middle)
    return low


@lru_cache
def tanh_parameters(layers: int, tau: float = TAU) -> tuple[float, float, float, float]:
    """α, β, γ, δ of φ(x) = γ·(tanh(α·x + β) + δ), tailored to a chain of so many layers.

    Zhang et al. 2022, section 4.2, ask of it, for z ~ N(0, 1):

        Q(1) = E[φ²] = 1,   Q'(1) = E[φ·φ'·z] = 1,   C'(1) = E[φ'²] = 1,   C_f''(1) = layers · E[φ''²] = tau

    C'(1) gives γ and Q'(1) then δ; Newton's method finds α and β from those of a long chain.
    """
    z, weights = np.polynomial.hermite_e.hermegauss(100)
    weights /= weights.sum()

    def shape(alpha: float, beta: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
        t = np.tanh(alpha * z + beta)
        slope = alpha * (1 - t**2)
        gamma = float(weights @ slope**2) ** -0.5
        delta = (gamma**-2 - float(weights @ (t * slope * z))) / float(weights @ (slope * z))
        return t, slope, gamma, delta

    def misses(p: NDArray[np.float64]) -> NDArray[np.float64]:
        t, slope, gamma, delta = shape(*p)
        curvature = 2 * p[0] * t * gamma * slope  # -φ''
        return np.array(
            [weights @ (gamma * (t + delta)) ** 2 - 1, layers / tau * (weights @ curvature**2) - 1]
        )

    p = np.array([0.576 / math.sqrt(layers), 0.518 + 0.4 / layers])
    for _ in range(5):  # three are enough for any depth from 5 to 8005
        steps = np.diag(1e-5 * p)
        jacobian = np.stack([(misses(p + step) - misses(p - step)) / (2 * step.sum()) for step in steps], 1)
        p = p - np.linalg.solve(jacobian, misses(p))
    _, _, gamma, delta = shape(*p)
    return float(p[0]), float(p[1]), gamma, delta
