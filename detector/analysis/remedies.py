"""What to try first: the change that was measured to help best, else the one that the verdict suggests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from detector.analysis.cures import Changes, cures, stripped, written
from detector.analysis.evidence import Effect, find
from detector.analysis.theory import Activation
from detector.analysis.trunk_theory import block_factors, layer_names, stage_factor
from detector.config.schema import Config
from detector.gradients.indices import limits
from detector.rows import Key

Facts = dict[str, Any]
Change = tuple[str, object]  # a key of the configuration, and the value it should have


def candidates(verdict: str, config: Config) -> Sequence[Change]:
    """Single changes that address a verdict, the one to try first at the front."""
    model, train = config.model, config.train
    if model.name != "compact":
        return [*([("train.clip", 10.0)] if train.clip is None else []), ("train.lr", train.lr / 2)]
    init = model.init in ("naive", "default") and ("model.init", "he")
    shortcut = model.shortcut != "residual" and ("model.shortcut", "residual")
    norm = model.norm == "none" and ("model.norm", "batch")
    act = model.act in ("sigmoid", "tanh") and ("model.act", "silu")
    clip = train.clip is None and ("train.clip", 10.0)
    if verdict == "diverged":
        order = [clip, norm, shortcut]
    elif verdict == "dead forward":
        order = [norm, init, shortcut]
    elif verdict == "collapsed":
        order = [norm, act, shortcut]
    else:
        order = [shortcut, norm, act, clip]
    return [*(change for change in order if change), ("train.lr", train.lr / 2)]


def remedy(
    summary: Mapping[str, Any], config: Config, effects: Sequence[Effect], act: Activation | None = None
) -> Facts:
    """The change to try first: the measured one that heals the gradient with the best mAP, else the first.

    It puts one component back, or, where that was measured to be better, is a cure without it.
    """
    dataset = str(summary.get("dataset"))
    options: list[Changes] = [{key: value} for key, value in candidates(str(summary[Key.VERDICT]), config)]
    before = find(effects, config, dataset)
    measured: list[tuple[Effect, Changes]] = []
    for changed in options:
        if next(iter(changed)).startswith("model."):
            swapped = {key.removeprefix("model."): value for key, value in changed.items()}
            effect = find(effects, config, dataset, **swapped)
            if effect is not None:
                measured.append((effect, changed))
    measured += cures(effects, config, dataset)
    healing = [pair for pair in measured if heals(pair[0], before)]
    best = max(healing, key=lambda pair: pair[0].mean, default=None)
    chosen = options[0] if best is None else best[1]
    facts: Facts = {"remedy/change": written(chosen)}
    parts = {key.removeprefix("model."): v for key, v in chosen.items() if key.startswith("model.")}
    if parts:
        model = config.model.model_copy(update=parts)
        factor = stage_factor(block_factors(model, act=act if model.act == config.model.act else None))
        if math.isfinite(factor):
            facts["remedy/theory_factor"] = factor
    if best is not None:
        facts |= {"remedy/metric": best[0].metric, "remedy/after": best[0].mean, "remedy/after_n": best[0].n}
        if before is not None:
            facts |= {"remedy/before": before.mean, "remedy/before_n": before.n}
    return facts


def cure(summary: Mapping[str, Any], config: Config, effects: Sequence[Effect]) -> Facts:
    """The best measured change that leaves out what is stripped, if it is better than the run as it is.

    Empty where nothing is stripped. `cure/change` is None where no cure was measured under these conditions;
    `cure/tried` says how many were.
    """
    if config.model.pretrained is not None or not stripped(config):
        return {}
    dataset = str(summary.get("dataset"))
    before, measured = find(effects, config, dataset), cures(effects, config, dataset)
    facts: Facts = {"cure/tried": len(measured), "cure/change": None}
    if before is not None:
        facts |= {"cure/before": before.mean, "cure/before_n": before.n}
    if measured and (before is None or measured[0][0].mean > before.mean):
        best, changed = measured[0]
        facts |= {"cure/change": written(changed), "cure/metric": best.metric}
        facts |= {"cure/after": best.mean, "cure/after_n": best.n}
    return facts


def heals(effect: Effect, before: Effect | None) -> bool:
    """Whether a change was measured to bring the gradient into its healthy range, and to cost no mAP.

    Of a signal that has collapsed the gradient may well be in that range, and is not healed.
    """
    index = effect.vanishing_index
    low, high = limits(len(layer_names(effect.settings["model.depths"])))
    healthy = index is not None and low <= index <= high and 2 * effect.no_signal < effect.n
    return healthy and (before is None or effect.mean > before.mean)


def say_remedy(facts: Facts) -> str:
    """The sentence on what `remedy` found."""
    text = f"First remedy to try: {facts['remedy/change']}"
    if (factor := facts.get("remedy/theory_factor")) is not None:
        text += f", with which theory expects a factor of {factor:.3f} a layer at initialisation"
    if "remedy/after" not in facts:
        return f"{text}; its effect on mAP was not measured under these conditions."
    text += f"; measured {facts['remedy/metric']}: "
    if "remedy/before" in facts:
        text += f"{facts['remedy/before']:.2f} (n={facts['remedy/before_n']}) to "
    return f"{text}{facts['remedy/after']:.2f} (n={facts['remedy/after_n']})."


def say_cure(facts: Facts) -> str:
    """The sentence on what `cure` found."""
    if "cure/tried" not in facts:
        return ""
    if not facts["cure/tried"]:
        return "What helps without putting back what is stripped was not measured under these conditions."
    if facts["cure/change"] == facts["remedy/change"]:
        return (
            f"It puts nothing back that is stripped, and is the best of {facts['cure/tried']} such measured."
        )
    if facts["cure/change"] is None:
        return f"Nothing that was measured without putting it back ({facts['cure/tried']}) did better."
    text = f"Without putting it back, the best of {facts['cure/tried']} measured is {facts['cure/change']}: "
    if "cure/before" in facts:
        text += f"{facts['cure/metric']} {facts['cure/before']:.2f} (n={facts['cure/before_n']}) to "
    return f"{text}{facts['cure/after']:.2f} (n={facts['cure/after_n']})."
