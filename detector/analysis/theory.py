"""Mean-field theory: what one layer of a wide random network does to the gradient at initialisation.

Needs only numpy, so that plots and reports can draw a prediction without loading PyTorch.

In a wide layer the pre-activations are Gaussian (Poole et al. 2016, arXiv:1606.05340), so that a few moments
describe a layer, and averages over z ~ N(0, 1), written E below, give what it does to them. With the gain
k = fan_in · Var(w), and the previous layer's second moment m2 and variance over inputs v:

| norm    | pre-activation      | backward factor² χ        | source                                        |
|---------|---------------------|---------------------------|-----------------------------------------------|
| `none`  | √q·z, q = k·m2 + b² | k · E[φ'(√q z)²]          | Schoenholz et al. 2017, arXiv:1611.01232      |
| `batch` | z                   | E[φ'(z)²] / v             | Yang et al. 2019, arXiv:1902.08129            |
| `group` | z                   | E[φ'(z)²] / m2            | the same, over channels: groups are large     |
| `weight` | √q·z, q = k·Var    | k · E[φ'(√q z)²]          | Brock et al. 2021, arXiv:2101.08692           |

Var is m2 less the squared mean over units, which filters of mean 0 do not see.

For ReLU without a norm this is the result of He et al. 2015 (arXiv:1502.01852): √(k/2). The factor is what
leaves a layer backwards over what enters it, above 1 where gradients grow towards the input. It is a ratio of
Frobenius norms over all units, so it holds for a change of width or stride as it stands: a unit's gradient is
spread over fan_in inputs, whatever their number.

A block y = c·x + t·f(x) multiplies the squared gradient by c² + t²·χa·χb (residual: c = t = 1; none: c = 0;
highway gate at its initialisation: t = sigmoid(-1), c = 1 - t), and adds moments. With batch norm a residual
branch therefore shrinks as 1/depth beside the growing variance of x (De & Smith 2020, arXiv:2002.10444): the
gradient's ratio is a polynomial in depth instead of an exponential.

What the theory leaves out: zero padding, correlations between neighbouring pixels, inputs of different size
(see `power_exponent`), small groups of a group norm, narrow layers, and training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

LEAK = 0.1  # the slope of leaky ReLU, as in detector.models.blocks
CARRY = 1 / (1 + math.e)  # sigmoid(-1): what a highway gate lets through at its initialisation


# c and t of a block y = c·x + t·f(x), at initialisation.
SHORTCUTS = {
    "none": (0.0, 1.0),
    "residual": (1.0, 1.0),
    "gated": (1 - CARRY, CARRY),
    "skipinit": (1.0, 0.0),
}
NORMS = "none", "batch", "group", "weight"
INITS = "he", "lecun", "xavier", "default", "naive", "orthogonal", "delta_orthogonal"


def _panels() -> tuple[Array, Array]:
    """Nodes and weights of E[f(z)], z ~ N(0, 1): Gauss-Legendre on panels that grow away from zero.

    Gauss-Hermite quadrature smears the kink of ReLU, and misses the spike that a steep sigmoid's slope is.
    A panel boundary at zero makes the one exact, small panels beside it the other.
    """
    x, w = np.polynomial.legendre.leggauss(16)
    edges = np.concatenate(([0.0], np.geomspace(1e-6, 0.5, 18), np.arange(1.0, 12.5, 0.5)))
    low, high = edges[:-1, None], edges[1:, None]  # (panels, 1)
    nodes = ((high - low) * x / 2 + (high + low) / 2).ravel()
    weights = ((high - low) * w / 2).ravel() * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
    return np.concatenate((-nodes, nodes)), np.concatenate((weights, weights))


_NODES, _WEIGHTS = _panels()


def expectation(f: Function, scale: float = 1.0) -> float:
    """E[f(scale · z)] for z ~ N(0, 1)."""
    with np.errstate(all="ignore"):  # what overflows is not finite, and the callers see that
        return float(_WEIGHTS @ f(scale * _NODES))


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def _silu_slope(x: Array) -> Array:
    s = _sigmoid(x)
    return s * (1 + x * (1 - s))


Activation = tuple[Function, Function]
"""φ and φ', on arrays of any shape."""

FUNCTIONS: dict[str, Activation] = {
    "silu": (lambda x: x * _sigmoid(x), _silu_slope),
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(np.float64)),
    "leaky_relu": (lambda x: np.where(x > 0, x, LEAK * x), lambda x: np.where(x > 0, 1.0, LEAK)),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "identity": (lambda x: x, np.ones_like),
}


class Signal(NamedTuple):
    """The moments of a layer's output over its units and inputs."""

    mean: float
    power: float  # the second moment, E[h²]
    spread: float  # the variance over inputs at a fixed unit; only known behind a batch norm


@dataclass(frozen=True)
class Layer:
    """Weights, norm and activation, in this order.

    Args:
        act: a key of `FUNCTIONS`, or φ and φ' themselves.
        norm: `batch`, `group`, `weight` or `none`.
        gain: k = fan_in · Var(w). A norm of the signal makes it irrelevant.
        bias: Var(b). With a norm there is none.
    """

    act: str | Activation
    norm: str
    gain: float
    bias: float = 0.0

    def __call__(self, signal: Signal) -> tuple[Signal, float]:
        """The output's moments, and χ: the squared backward factor."""
        scale, gain = 1.0, 1.0
        if self.norm in ("none", "weight"):
            seen = signal.power - (signal.mean**2 if self.norm == "weight" else 0.0)
            scale, gain = math.sqrt(self.gain * seen + self.bias), self.gain
        elif self.norm == "batch":
            gain = 1 / signal.spread if signal.spread > 0 else math.inf
        else:
            gain = 1 / signal.power if signal.power > 0 else math.inf
        value, slope = FUNCTIONS[self.act] if isinstance(self.act, str) else self.act
        mean = expectation(value, scale)
        power = expectation(lambda x: value(x) ** 2, scale)
        chi = gain * expectation(lambda x: slope(x) ** 2, scale)
        return Signal(mean, power, power - mean**2), chi


def layer_factor(
    act: str | Activation, norm: str, gain: float, layers: Sequence[int] = range(5, 25)
) -> float:
    """The backward factor of a plain layer: the geometric mean over `layers` of a deep chain.

    The input is white with E[x²] = 1. Most chains reach their fixed point within five layers.
    """
    layer, signal, logs = Layer(act, norm, gain), Signal(0.0, 1.0, 1.0), []
    for depth in range(max(layers) + 1):
        signal, chi = layer(signal)
        if depth in layers:
            logs.append(0.5 * math.log(chi))
    return math.exp(sum(logs) / len(logs))


def batch_norm_factor(act: str) -> float:
    """√(E[φ'²] / Var φ), the limit behind a batch norm; for ReLU √(π / (π - 1)) (Yang et al. 2019)."""
    return layer_factor(act, "batch", 1.0)


def power_exponent(act: str) -> float:
    """d ln E[φ(√q z)²] / d ln q at q = 1: by how many per cent an activation passes on 1 % of power.

    Above 1, differences in size between inputs grow from layer to layer. A batch norm rescales all inputs
    alike and cannot stop this: its fixed point, where all are of one size, is unstable, and the factor
    predicted for it too low. SiLU has 1.17, ReLU exactly 1, saturating functions less.
    """
    value, slope = FUNCTIONS[act]
    return expectation(lambda x: value(x) * slope(x) * x) / expectation(lambda x: value(x) ** 2)


def block(signal: Signal, a: Layer, b: Layer, shortcut: str) -> tuple[Signal, float]:
    """Two layers and a shortcut around them: the output's moments, and the squared backward factor."""
    branch, chi_a = a(signal)
    branch, chi_b = b(branch)
    carry, take = SHORTCUTS[shortcut]
    out = Signal(
        carry * signal.mean + take * branch.mean,
        # Weights have mean zero: what x and f share is their mean alone.
        carry**2 * signal.power + take**2 * branch.power + 2 * carry * take * signal.mean * branch.mean,
        carry**2 * signal.spread + take**2 * branch.spread,
    )
    return out, carry**2 + take**2 * chi_a * chi_b


def residual_ratio(act: str, norm: str, blocks: int, gain: float = 2.0) -> float:
    """‖g(first)‖ / ‖g(last)‖ over a chain of residual blocks behind one plain layer."""
    layer = Layer(act, norm, gain)
    signal, _ = layer(Signal(0.0, 1.0, 1.0))
    total = 1.0
    for _ in range(blocks):
        signal, squared = block(signal, layer, layer, "residual")
        total *= squared
    return math.sqrt(total)


def weight_gain(scheme: str, c_in: int, c_out: int, std: float, kernel: int = 3) -> tuple[float, float]:
    """fan_in · Var(w) and Var(b) under a scheme of `detector.models.init.init_weights`."""
    fan_in, fan_out = c_in * kernel**2, c_out * kernel**2
    if scheme == "default":
        return 1 / 3, 1 / (3 * fan_in)
    variance = {
        "he": 2 / fan_in,
        "lecun": 1 / fan_in,
        "xavier": 2 / (fan_in + fan_out),
        "naive": std**2,
        "orthogonal": 1 / fan_in,
        "delta_orthogonal": 1 / fan_in,
    }[scheme]
    return fan_in * variance, 0.0


def standard_gain(act: Activation) -> float:
    """fan_in · Var(filter) of `detector.models.standardised`: 1 / Var φ(z), or 1 where φ does not vary."""
    variance = expectation(lambda x: act[0](x) ** 2) - expectation(act[0]) ** 2
    return 1 / variance if math.isfinite(variance) and variance > 1e-12 else 1.0
