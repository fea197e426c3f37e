"""From YAML files and the command line to one checked `Config`, or an error that says what to fix.

A configuration is a stack of layers; the later layer wins, key by key:

    defaults  <  root file  <  …  <  the file named by --config  <  section.key=value

A file names its parent with `base:`: a file relative to itself, or one of the project's by its name. Two
rules go beyond "the later wins":

- `train.steps` and `train.epochs` are one choice: a layer that sets one of them clears the other.
- `run` (name and directory) is not inherited: a child of an experiment is another experiment.

Each value remembers the line it came from, so that an error can point there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from detector.config import safe_yaml
from detector.config.experiment import flat
from detector.config.messages import COMMAND_LINE, KEYS, SECTIONS, near, unknown, wrong_value
from detector.config.safe_yaml import Value
from detector.config.schema import Config
from detector.config.ultralytics_names import SAME
from detector.errors import UserError, display_path, shorten
from detector.runtime.files import PROJECT, TRAIN, write_text

Layer = dict[str, Value]  # "model.shortcut" -> its value
MOST_NAMED = 40  # files that an error lists


@dataclass(frozen=True)
class LoadedConfig:
    """A checked configuration and where it came from."""

    config: Config  # with run.name filled in
    base: Config  # what the root of the `base:` chain says by itself
    name: str  # the ablation's name: run.name, else the file's stem
    difference: list[str]  # lines such as "model.shortcut: residual -> none", against `base`
    sources: tuple[Path, ...]  # the files, root first
    overrides: tuple[str, ...] = ()  # from the command line

    @property
    def path(self) -> Path:
        """The file that was asked for."""
        return self.sources[-1]


def load_config(
    path: Path | str, overrides: Sequence[str] = (), fallback: Path | None = None
) -> LoadedConfig:
    """Read a file (see `find_file`) with its bases, apply `section.key=value` overrides, and check the whole.

    >>> from detector import load_config
    >>> loaded = load_config("no_residual", ["train.seed=1"])
    >>> loaded.difference
    ['model.shortcut: residual -> none', 'train.seed: 0 -> 1']
    >>> loaded.config.model.shortcut
    'none'

    `fallback` is a file whose data and training values stand in when the dataset of `path` is not available.
    They replace those of the layer that chose that dataset, so a deeper file's delta (say, an ablation's)
    and the command line still win over them; only `data.path` is always the fallback's.

    Raises UserError for anything a user can mend.
    """
    path = find_file(path)
    chain = read_chain(path)
    sources = tuple(file for file, _ in chain)
    files = [layer for _, layer in chain]
    command_line = parse_overrides(overrides)
    base = check(files[0])

    # The root keeps its run section only if it is itself what was asked for.
    layers = [{key: v for key, v in layer.items() if not key.startswith("run.")} for layer in files[:-1]]
    layers.append(files[-1])
    if fallback is not None:
        stand_in, data_path = _fallback_layer(fallback)
        chooses_data = [index for index, layer in enumerate(layers) if "data.path" in layer]
        layers.insert(chooses_data[-1] + 1 if chooses_data else 0, stand_in)
        command_line["data.path"] = data_path

    merged = merge([*layers, command_line])
    if "run.name" not in merged or merged["run.name"].value is None:
        merged["run.name"] = Value(path.stem, display_path(path))
    config = check(merged)
    name = config.run.name or path.stem
    return LoadedConfig(config, base, name, difference(base, config), sources, tuple(overrides))


def difference(base: Config, config: Config) -> list[str]:
    """What `config` changes in the experiment, one line a key. The name and directory are not part of it."""
    before, after = flat(base), flat(config)
    return [
        f"{key}: {_as_text(before[key])} -> {_as_text(after[key])}"
        for key in KEYS
        if before[key] != after[key] and not key.startswith("run.")
    ]


def save(config: Config, path: Path) -> None:
    """Write every key as YAML; `load_config` of that file gives an equal config if `run.name` is set."""
    header = f"# The complete configuration of a run. To repeat it: {TRAIN} --config <this file>\n"
    write_text(path, header + safe_yaml.dump(config.model_dump()))


# --- names to files ------------------------------------------------------------------------------


def find_file(path: Path | str, folders: Sequence[str] = ("configs", "ablations")) -> Path:
    """A file by its path, or one in `folders` by its name: `no_residual` is ablations/no_residual.yaml.

    What lies at `path` comes first, then the working directory's own folders, then the project's.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    path = Path(path)
    if _exists(path) and not path.is_dir():
        return path
    alone = path.parent == Path()
    places = [Path(root, folder) for root in (Path(), PROJECT) for folder in folders
              if alone or path.parent == Path(folder)]  # fmt: skip
    name = path.name.removesuffix(".yaml")
    for file in (place / f"{name}.yaml" for place in places):
        if _exists(file):
            return file
    if _exists(path):
        return path  # a folder: whoever reads it says so
    hint = _near_file(path, str(path))
    if not hint and (alike := near(name, (file.stem for place in places for file in place.glob("*.yaml")))):
        hint = f"; did you mean {alike if alone else path.with_name(f'{alike}.yaml')}?"
    if not hint and alone:
        there = dict.fromkeys(file.stem for place in places for file in sorted(place.glob("*.yaml")))
        named, folder = list(there)[:MOST_NAMED], " and ".join(folders)
        hint = f"; {folder} have {', '.join(named)}{', …' * (len(there) > MOST_NAMED)}" if there else ""
    raise UserError(f"{display_path(path)}: no such file{hint}")


# --- files and overrides to layers ---------------------------------------------------------------


def read_chain(path: Path) -> list[tuple[Path, Layer]]:
    """The file at `path` and its bases as layers, the root first."""
    chain: list[tuple[Path, Layer]] = []
    seen: list[Path] = []
    written, named_by = str(path), ""
    while True:
        source = display_path(path)
        if not _exists(path):
            raise UserError(f"{named_by}{source}: no such file{_near_file(path, written)}")
        real = path.resolve()
        if real in seen:
            cycle = [display_path(file) for file, _ in chain[seen.index(real) :]]
            raise UserError(f"{named_by}circular: {' -> '.join([*cycle, cycle[0]])}")
        seen.append(real)
        layer, base = _read_layer(path, source)
        chain.append((path, layer))
        if base is None:
            return chain[::-1]
        if not isinstance(base.value, str) or not base.value:
            raise UserError(f"{base.where}: base: must be the name of a file, not {base}")
        written, named_by = base.value, f"{base.where}: base: "
        path = path.parent / written
        if not _exists(path) and Path(written).parent == Path():  # the project's, by its name
            with suppress(UserError):
                path = find_file(written)


def _read_layer(path: Path, source: str) -> tuple[Layer, Value | None]:
    """The settings of one file, and the value of its `base:` key if it has one."""
    return as_layer(safe_yaml.read(path, source))


def as_layer(document: Value) -> tuple[Layer, Value | None]:
    """A mapping of sections, such as a whole file, as a layer, and the value of its `base:` key if any.

    Raises UserError for a section or key that does not exist; values are checked by `check`.
    """
    if document.value is None:  # an empty file: all defaults
        return {}, None
    if not isinstance(document.value, dict):
        known = ", ".join(SECTIONS)
        raise UserError(f"{document.where}: must be a mapping of sections ({known}), not {document}")
    layer: Layer = {}
    base = None
    for section, keys in document.value.items():
        if section == "base":
            base = keys
        elif section not in SECTIONS:
            raise UserError(unknown(section, keys.where))
        elif isinstance(keys.value, dict):
            for key, value in keys.value.items():
                if f"{section}.{key}" not in KEYS:
                    raise UserError(unknown(f"{section}.{key}", value.where))
                layer[f"{section}.{key}"] = value
        elif keys.value is not None:  # `model:` with nothing under it sets nothing
            raise UserError(f"{keys.where}: {section}: must be a mapping such as {{key: value}}, not {keys}")
    return layer, base


def parse_overrides(overrides: Iterable[str]) -> Layer:
    """`section.key=value` arguments as one layer; of two for the same key the later wins."""
    layer: Layer = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = SAME.get(key.strip(), key.strip())
        if not equals:
            hint = f"; to run that file: --config {override}" if override.endswith((".yaml", ".yml")) else ""
            raise UserError(f"{COMMAND_LINE}: {shorten(override)}: expected section.key=value{hint}")
        if key not in KEYS:
            raise UserError(unknown(key, COMMAND_LINE))
        if not text.strip(" \t\n"):
            raise UserError(f"{COMMAND_LINE}: {key}: no value after '='; write {key}=null for none")
        value = safe_yaml.parse(text, f"{COMMAND_LINE}: {key}", numbered=False)
        unquoted = value.typed is not None or value.value is None
        if unquoted and re.search(r"(^|[ \t\n])#", text):
            raise UserError(f"{COMMAND_LINE}: {key}: YAML reads a comment from # on; quote the value")
        layer[key] = Value(value.value, COMMAND_LINE, value.typed)
    return layer


def _fallback_layer(path: Path) -> tuple[Layer, Value]:
    """The data and training values of the fallback file itself, and the dataset that it ends up with."""
    chain = read_chain(path)
    whole = merge(layer for _, layer in chain)
    if "data.path" not in whole:
        raise UserError(f"{display_path(path)}: data.path: a fallback must name its dataset")
    own = {key: value for key, value in chain[-1][1].items() if key.startswith(("data.", "train."))}
    return own, whole["data.path"]


def merge(layers: Iterable[Layer]) -> Layer:
    """One layer of several, in which the later win."""
    merged: Layer = {}
    for layer in layers:
        for one, other in (("train.steps", "train.epochs"), ("train.epochs", "train.steps")):
            if one in layer and layer[one].value is not None and other not in layer:
                merged.pop(other, None)
        merged.update(layer)
    return merged


# --- checking -------------------------------------------------------


def check(layer: Layer) -> Config:
    """The layer as a Config. Raises UserError with at most two problems, each on one line."""
    sections: dict[str, dict[str, Any]] = {}
    for dotted, setting in layer.items():
        section, _, key = dotted.partition(".")
        sections.setdefault(section, {})[key] = setting.value
    try:
        return Config.model_validate(sections)
    except ValidationError as error:
        problems: dict[str, str] = {}  # by key: a list of four bad numbers is one problem
        for detail in error.errors(include_url=False, include_input=False):
            if detail["type"] == "broken_rule":
                dotted = ".".join([*map(str, detail["loc"][:1]), detail["ctx"]["key"]])
                problem = detail["ctx"]["problem"]
            else:
                dotted = ".".join(map(str, detail["loc"][:2]))
                problem = wrong_value(dotted, layer[dotted])
            problems.setdefault(dotted, f"{layer[dotted].where}: {dotted}: {problem}")
        lines = list(problems.values())
        if len(lines) > 2:
            lines = [lines[0], f"and {len(lines) - 1} more wrong values"]
        raise UserError("\n".join(lines)) from None


def _near_file(path: Path, written: str) -> str:
    """A hint at a file of a similar name in the same folder, in the form that the user wrote."""
    try:
        siblings = [file.name for file in path.parent.iterdir() if file.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):
        return ""
    alike = near(path.name, siblings)
    return f"; did you mean {os.path.join(os.path.dirname(written), alike)}?" if alike else ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL: no such file either
        return False


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
