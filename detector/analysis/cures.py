"""What was measured to help a network that lacks a component, without putting that component back.

`ablations/suites/cures.yaml` measures what the literature proposes; the ablations are in the same file of
evidence. Whatever differs from a run in nothing but the keys below, has none of its stripped components back
and lacks no other, was tried as a cure for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detector.analysis.evidence import Effect, settings
from detector.config.schema import Config

# What a cure may change.
KEYS = (
    "model.act",
    "model.act_slope",
    "model.norm",
    "model.shortcut",
    "model.init",
    "model.init_std",
    "model.block",
    "train.optimizer",
    "train.lr",
    "train.clip",
    "train.clip_by",
)
# What puts a component back, beside the baseline's own: SkipInit is the same shortcut with a factor, and a
# group norm is a norm. A gate mixes instead of adding, and weight standardisation touches no signal: both
# are cures.
RESTORES: dict[str, tuple[str, ...]] = {
    "model.shortcut": ("residual", "skipinit"),
    "model.norm": ("batch", "group"),
    "model.act": (),
}

Changes = dict[str, Any]  # keys of the configuration, and the values they should have


def stripped(config: Config) -> dict[str, tuple[str, ...]]:
    """The components that a configuration lacks beside the baseline, by key, and what would put them back."""
    own, whole = (settings(c) for c in (config, Config()))
    return {key: (whole[key], *others) for key, others in RESTORES.items() if own[key] != whole[key]}


def changes(config: Config, effect: Effect) -> Changes:
    """What distinguishes a measurement from a run: keys and the measurement's values."""
    own = settings(config)
    return {key: value for key, value in effect.settings.items() if own.get(key, ...) != value}


def written(changed: Changes) -> str:
    """Changes as they are typed on the command line."""
    return " ".join(f"{key}={'null' if value is None else value}" for key, value in changed.items())


def cures(effects: Sequence[Effect], config: Config, dataset: str) -> list[tuple[Effect, Changes]]:
    """The measured cures of a run's stripped components under its conditions, the best mAP first.

    Empty where nothing is stripped, or nothing that leaves it out was measured.
    """
    lacking = stripped(config)
    found = []
    for effect in effects if lacking else ():
        changed = changes(config, effect)
        restores = any(changed.get(key) in values for key, values in lacking.items())
        strips = any(changed.get(key) == "none" for key in ("model.shortcut", "model.norm"))
        allowed = changed and changed.keys() <= set(KEYS) and not (restores or strips)
        if effect.dataset == dataset and allowed:
            found.append((effect, changed))
    return sorted(found, key=lambda cure: cure[0].mean, reverse=True)
