"""What mean-field theory expects of our own trunk: a factor a block, and the gradient's curve they make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from detector.analysis.theory import (
    FUNCTIONS,
    INITS,
    NORMS,
    SHORTCUTS,
    Activation,
    Layer,
    Signal,
    block,
    standard_gain,
    weight_gain,
)
from detector.config.schema import ModelConfig
from detector.rows import Key, by_layer

IMAGE_POWER = 0.25  # E[x²] of pixels in [0, 1]; matters only without a norm, and little


def layer_names(depths: Sequence[int]) -> list[str]:
    """The names of the trunk's layers, in network order, as `Detector.backbone_layers` gives them."""
    names = ["stem"]
    for stage, depth in enumerate(depths):
        names += [f"p{stage + 2}.down", *(f"p{stage + 2}.{index}" for index in range(depth))]
    return [f"{position:02d}_{name}" for position, name in enumerate(names)]


def block_factors(
    model: ModelConfig, image_power: float = IMAGE_POWER, act: Activation | None = None
) -> dict[str, float]:
    """The predicted ‖g(input)‖ / ‖g(output)‖ of each of the trunk's layers but the stem.

    Args:
        model: the configuration; trained weights are not predicted, so this is about the initialisation.
        image_power: E[x²] of the network's input.
        act: φ and φ' of `model.act`, where `FUNCTIONS` does not have them.

    Returns:
        A factor a layer. Empty where the theory does not know the activation, the norm, the shortcut, the
        block or the network, or, without a norm, how large the weights are.
    """
    model = model.part("trunk")
    function = FUNCTIONS.get(model.act, act)
    parts = model.norm in NORMS and model.shortcut in SHORTCUTS and model.block == "basic"
    sized = model.norm != "none" or model.init in INITS
    if function is None or not (parts and sized) or model.name != "compact" or model.pretrained is not None:
        return {}

    def layer(c_in: int, c_out: int) -> Layer:
        if model.norm == "weight":
            return Layer(function, model.norm, standard_gain(function))
        scheme = model.init if model.init in INITS else "he"  # behind a norm it makes no difference
        return Layer(function, model.norm, *weight_gain(scheme, c_in, c_out, model.init_std))

    signal, _ = layer(3, model.widths[0])(Signal(0.0, image_power, image_power))
    squares: list[float] = []
    for stage, depth in enumerate(model.depths):
        c_in, c_out = model.widths[stage], model.widths[stage + 1]
        signal, chi = layer(c_in, c_out)(signal)
        squares.append(chi)
        for _ in range(depth):
            signal, chi = block(signal, layer(c_out, c_out), layer(c_out, c_out), model.shortcut)
            squares.append(chi)
    return dict(zip(layer_names(model.depths)[1:], map(math.sqrt, squares), strict=True))


def expected_profile(
    model: object, image_power: float = IMAGE_POWER, act: Activation | None = None
) -> dict[str, float] | None:
    """log10 ‖g(layer)‖ / ‖g(last layer)‖ at initialisation, by layer, for the trunk as a chain.

    The neck's gradient joins the chain at the ends of P3 and P4, which this does not see: to draw it over
    a measured curve, use `overlay`.

    Args:
        model: the `model` section of a configuration.
        image_power: E[x²] of the network's input.
        act: see `block_factors`.

    Returns:
        A value a layer, in network order, 0 at the last; None for a model that the theory does not cover.
    """
    if not isinstance(model, ModelConfig):
        return None
    factors = block_factors(model, image_power, act)
    if not factors or not all(math.isfinite(f) and f > 0 for f in factors.values()):
        return None
    names = layer_names(model.depths)
    profile, level = {names[-1]: 0.0}, 0.0
    for name in reversed(names[1:]):
        level += math.log10(factors[name])
        profile[names[names.index(name) - 1]] = level
    return {name: profile[name] for name in names}


def overlay(
    model: object, measured: Mapping[str, float], act: Activation | None = None
) -> dict[str, float] | None:
    """The predicted activation-gradient norms, to be drawn over the measured ones.

    A chain predicts ratios, so each stretch that is a chain is anchored at its end: from the stem to the
    end of P3, P4, and P5. At those ends the neck's gradient comes in.

    Args:
        model: the `model` section of a configuration.
        measured: ‖dL/d(output)‖ by layer (`07_p3.4`), at initialisation.
        act: see `block_factors`.

    Returns:
        A norm a layer, in network order; None where the theory or a measured anchor is missing.
    """
    profile = expected_profile(model, act=act)
    if profile is None or not isinstance(model, ModelConfig):
        return None
    ends = [sum(d + 1 for d in model.depths[: stage + 1]) for stage in (1, 2, 3)]  # positions
    names, out, end = list(profile), {}, iter(ends)
    at = next(end)
    for position, name in enumerate(names):
        at = next(end) if position > at else at
        anchor = measured.get(names[at], math.nan)
        if not (math.isfinite(anchor) and anchor > 0):
            return None
        out[name] = anchor * 10 ** (profile[name] - profile[names[at]])
    return out


def stage_factor(factors: Mapping[str, float], stage: str = "p3") -> float:
    """The backward factor of one layer of a stage: the geometric mean over its blocks, two layers each.

    The first block sees the downsampled signal and the last one the neck's gradient: they are left out
    where a stage has more than three blocks.

    Args:
        factors: ‖g(input)‖ / ‖g(output)‖ by layer, predicted or measured.
        stage: a pyramid level.

    Returns:
        The factor; NaN if one of its blocks has none.
    """
    logs = [
        math.log(value) if value > 0 and math.isfinite(value) else math.nan
        for name, value in factors.items()
        if name.split("_", 1)[1].startswith(f"{stage}.") and not name.endswith(".down")
    ]
    logs = logs[1:-1] if len(logs) > 3 else logs
    return math.exp(sum(logs) / (2 * len(logs))) if logs else math.nan


def measured_factor(row: Mapping[str, float], stage: str = "p3") -> float:
    """`stage_factor` of a recorded step, from its activation gradients."""
    norms = by_layer(row, Key.ACTIVATION_GRAD)
    pairs = zip(norms, list(norms)[1:], strict=False)
    return stage_factor(
        {name: norms[before] / norms[name] if norms[name] else math.nan for before, name in pairs}, stage
    )
