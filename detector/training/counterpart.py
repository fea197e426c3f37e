"""The run to set beside this one: the command for it, with what was typed, so that the two compare."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from detector.config.experiment import MARKERS, flat
from detector.config.loading import LoadedConfig, find_file, load_config, parse_overrides
from detector.config.messages import KEYS
from detector.config.safe_yaml import written
from detector.errors import UserError, display_path
from detector.registry import with_plugins
from detector.runtime.files import TRAIN
from detector.training.prepare import FALLBACK

BASELINE, ABLATIONS = "configs/coco8.yaml", "ablations"
STRIPPED = "no_residual"  # what a network of the usual parts is set beside
STRIP = {"model.shortcut": "none"}  # what makes it that
# Of the network these say how large it is, and where its parts are exchanged; the others are parts.
SIZES = "model.depths", "model.widths", "model.neck_width", "model.reg_max", "model.scope"
# In what two runs must agree, or they are not compared; and in these, where epochs say how long they are.
COMPARED = "data.path", "data.format", "data.image_size", "data.val_fraction", "train.steps", "train.epochs"
EPOCH = "train.batch", "train.accumulate"

Typed = Mapping[str, str]  # section.key -> section.key=value, as it was typed


def counterpart(loaded: LoadedConfig) -> str:
    """The command that trains what this run is best set beside; "" where a file that it takes is gone.

    A network of the usual parts is set beside one without shortcuts; any other beside the one whose parts
    were exchanged. Everything else that was typed is repeated, but for the run's name and directory.
    """
    with suppress(UserError, OSError):
        file, typed = _origin(loaded)
        plain, values = load_config(file), flat(loaded.config)
        kept = {key: text for key, text in typed.items() if not key.startswith("run.")}
        base = _base(plain)
        if base is not None:
            own = set(_differing(flat(plain.config), flat(load_config(base).config)))
            stripped = own - set(_compared(values))
            return _command(loaded, base, {key: text for key, text in kept.items() if key not in stripped})
        exchanged = {key for key in kept if _is_part(key) and values[key] != flat(plain.config)[key]}
        if exchanged:
            return _command(loaded, file, {key: text for key, text in kept.items() if not _is_part(key)})
        kept = {key: text for key, text in kept.items() if key not in STRIP}
        if _same(file, BASELINE):
            return _command(loaded, find_file(f"{ABLATIONS}/{STRIPPED}.yaml"), kept)
        return _command(loaded, file, kept, STRIP | {"run.name": STRIPPED})
    return ""


def _origin(loaded: LoadedConfig) -> tuple[Path, Typed]:
    """The file that the run began with, and what was typed.

    A resumed run, or one that repeats another, has one complete file: its name says which it began with, and
    in what it differs from that was typed.
    """
    if len(loaded.sources) > 1 or _same(loaded.path, BASELINE):
        return loaded.path, {key: text for text in loaded.overrides for key in parse_overrides([text])}
    file = find_file(BASELINE)
    for folder in (ABLATIONS, "configs"):
        with suppress(UserError):  # most names, such as baseline, are no file's
            named = find_file(f"{folder}/{loaded.name}.yaml")
            file = file if _same(named, loaded.path) else named
    return file, _to_type(flat(loaded.config), flat(load_config(file).config), KEYS)


def _base(loaded: LoadedConfig) -> Path | None:
    """The file with the network that an ablation strips, the nearest in its chain; None if it strips none."""
    usual, *_ = networks = [_parts(load_config(file)) for file in loaded.sources]
    intact = [
        parts == usual and file.parent.name != ABLATIONS
        for file, parts in zip(loaded.sources, networks, strict=True)
    ]
    if intact[-1]:
        return None
    if not any(intact):  # an ablation without a base
        return find_file(BASELINE)
    return next(file for file, whole in zip(loaded.sources[::-1], intact[::-1], strict=True) if whole)


def _command(loaded: LoadedConfig, file: Path, kept: Typed, strip: Mapping[str, str] | None = None) -> str:
    """The command with these overrides, and with what else it takes to be compared with the run."""
    asked = load_config(loaded.path, loaded.overrides).config
    # COCO8 is not here, and the other run will train on the same set instead.
    fallback = FALLBACK if asked.data.path != loaded.config.data.path else None
    stripping = {key: f"{key}={value}" for key, value in (strip or {}).items()}
    texts = [*stripping.values(), *kept.values()]
    try:
        other = load_config(file, texts, fallback)
    except UserError:  # parts that do not go with this network: fixup has no norm
        kept = {key: text for key, text in kept.items() if not _is_part(key)}
        texts = [*stripping.values(), *kept.values()]
        other = load_config(file, texts, fallback)
    values = flat(loaded.config)
    texts += _to_type(values, flat(other.config), _compared(values)).values()
    if _same(file, BASELINE):
        which = "--ablation baseline"
    elif _same(file, f"{ABLATIONS}/{STRIPPED}.yaml"):
        which = f"--ablation {STRIPPED}"
    else:
        which = f"--config {shlex.quote(display_path(file))}"
    return with_plugins(" ".join([f"{TRAIN} {which}", *map(shlex.quote, texts)]))


def _to_type(ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Iterable[str]) -> Typed:
    """What has to be typed for a configuration to have our values of these keys, too."""
    differing = [key for key in _differing(ours, theirs) if key in keys]
    # Of steps and epochs, the one that is set clears the other.
    cleared = {key for key in ("train.steps", "train.epochs") if ours[key] is None}
    return {key: f"{key}={written(ours[key])}" for key in differing if key not in cleared}


def _compared(values: Mapping[str, Any]) -> tuple[str, ...]:
    return COMPARED if values["train.epochs"] is None else COMPARED + EPOCH


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [key for key in KEYS if ours[key] != theirs[key] and not key.startswith("run.")]


def _parts(loaded: LoadedConfig) -> dict[str, Any]:
    return {key: value for key, value in flat(loaded.config).items() if _is_part(key)}


def _is_part(key: str) -> bool:
    return key.startswith("model.") and MARKERS[key] is None and key not in SIZES


def _same(file: Path, name: str | Path) -> bool:
    return file.resolve() == find_file(name).resolve()
