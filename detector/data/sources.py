"""Where data is looked for, and the two built-in datasets that can be had from nothing."""

from __future__ import annotations

import difflib
import gc
import os
import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack

from detector.config.schema import DataConfig
from detector.data.coco8 import DatasetUnavailable, fetch_coco8
from detector.data.data_yaml import DataYaml, read_data_yaml
from detector.data.dataset import Dataset, Options, Reading, Track, no_track, read_dataset, refuse, scan
from detector.data.dataset_cache import DatasetCache
from detector.data.near_duplicates import thumbnail
from detector.data.own import read_registered
from detector.data.places import VARIABLE
from detector.data.preflight import inspect
from detector.data.problems import tally
from detector.data.shapes import render_shapes
from detector.errors import UserError, display_path
from detector.runtime.allocator import gc_paused
from detector.runtime.files import DOWNLOADS, PROJECT

__all__ = [
    "DatasetUnavailable",
    "check_command",
    "class_names",
    "datasets_dir",
    "load_configured",
    "load_dataset",
    "locate",
    "obtain",
    "options_of",
]

MANY = 10_000  # images, from which on Python does not look through them for garbage again and again
CHECK_SIZE = 320  # pixels: what `detector check` takes where nobody says at what size training will be


def datasets_dir() -> Path:
    """The folder of datasets: $DETECTOR_DATASETS, else `datasets/` in the clone or the user's cache."""
    folder = os.environ.get(VARIABLE)
    return Path(os.path.abspath(os.path.expanduser(folder))) if folder else DOWNLOADS / "datasets"


def locate(data_path: str) -> Path:
    """Find a data YAML: relative to the working directory, then the project; then among its datasets.

    Raises:
        UserError: there is no such file; the message names similar ones.
    """
    written = os.path.expanduser(data_path)
    candidates = [Path(os.path.abspath(written)), Path(os.path.normpath(PROJECT / written))]
    named = [PROJECT / "datasets" / written] if os.path.basename(written) == written else []
    for candidate in candidates + named:
        if os.path.isfile(candidate):
            return candidate
    for candidate in candidates:
        if os.path.isdir(candidate):
            inside = _yaml_files(candidate)
            hint = f"such as {display_path(inside[0])}" if inside else "but it holds none"
            raise UserError(f"{data_path}: is a folder; name the data YAML in it, {hint}")
    known = [path for folder in dict.fromkeys([candidates[0].parent, candidates[1].parent,
             PROJECT / "datasets", datasets_dir()]) for path in _yaml_files(folder)]  # fmt: skip
    near = difflib.get_close_matches(Path(written).stem, {path.stem for path in known}, n=3, cutoff=0.5)
    similar = [display_path(path) for path in dict.fromkeys(known) if path.stem in near]
    hint = f"; did you mean {' or '.join(similar[:3])}?" if similar else "; give the path of a data YAML"
    raise UserError(f"{data_path}: there is no such file{hint}")


def load_dataset(
    data_path: str, on_error: Literal["raise", "skip"] = "raise", **options: Unpack[Options]
) -> Dataset:
    """Find, and if need be fetch or render, a dataset, then read it: see `read_dataset`.

    Raises:
        DatasetUnavailable: COCO8 is absent and cannot be downloaded.
        UserError: as `locate` and `read_dataset`.
    """
    path, root = obtain(data_path)
    return read_dataset(path, on_error, **({"root": root} | options))


def load_configured(data: DataConfig, seed: int, track: Track = no_track) -> Dataset:
    """The dataset of a run. Its notes count everything that `check_command(data, seed)` lists.

    Args:
        data: the section of the configuration.
        seed: `train.seed`.
        track: see `scan`; not called where no file has changed since an earlier run.

    Raises:
        DatasetUnavailable: COCO8 is absent and cannot be downloaded.
        UserError: as `locate` and `read_dataset`; or what a registered reader says.
    """
    if data.format != "yolo":
        return read_registered(data)
    path, root = obtain(data.path)
    how = options_of(data, seed)
    with gc_paused():
        cache = DatasetCache(path, root, data.image_size, how)
        if (dataset := cache.recall()) is None:
            found = scan(path, root=root, sign=thumbnail, track=track, **how)
            refuse(found, data.on_error)
            problems, _ = inspect(found, data.image_size)
            dataset = replace(found.dataset, notes=tally(problems))
            cache.keep(dataset)
        if sum(map(len, dataset.splits.values())) > MANY:
            gc.freeze()
        return dataset


def class_names(data: DataConfig) -> tuple[str, ...]:
    """The classes of a run's dataset, by id. Raises UserError, as `load_configured`."""
    if data.format != "yolo":
        return read_registered(data).names
    return tuple(read_data_yaml(locate(data.path)).names)


def options_of(data: DataConfig, seed: int) -> Reading:
    """How a configuration says that its dataset is read."""
    return Reading(
        allow_outside=data.allow_outside,
        repair=data.repair,
        ignore_scores=data.ignore_scores,
        val_fraction=data.val_fraction,
        seed=seed if data.val_fraction else 0,
    )


def check_command(data: DataConfig, seed: int) -> str:
    """The command that lists what a run counts."""
    plain = DataConfig(image_size=CHECK_SIZE)
    keys = ("image_size", "allow_outside", "repair", "ignore_scores", "val_fraction")
    changed = [
        f"data.{key}={str(getattr(data, key)).lower()}"
        for key in keys
        if getattr(data, key) != getattr(plain, key)
    ]
    if data.val_fraction and seed:
        changed.append(f"train.seed={seed}")
    return shlex.join(["detector", "check", data.path, *changed])


def obtain(data_path: str) -> tuple[Path, Path | None]:
    """Find a data YAML and, for a built-in dataset, the folder of its data, made if it is nowhere.

    `source: coco8` or `source: shapes` in a data YAML says that the data can be had from nothing and
    lies in the folder for datasets; any other value of that key is somebody's own and is ignored.

    Returns:
        The data YAML, and the root that replaces its `path`; None keeps it.

    Raises:
        DatasetUnavailable: COCO8 is absent and cannot be downloaded.
        UserError: as `locate` and `read_data_yaml`.
    """
    path = locate(data_path)
    data = read_data_yaml(path)
    if data.source == "coco8":
        return path, _coco8(_folder_name(data))
    if data.source == "shapes":
        return path, _shapes(_folder_name(data))
    return path, None


def _coco8(name: str) -> Path:
    """Where COCO8 is, downloading it if it is nowhere."""
    own, project = datasets_dir() / name, DOWNLOADS / "datasets" / name
    if own != project and not own.parent.parent.is_dir():
        raise UserError(f"{VARIABLE} is {own.parent}, which cannot be created: its parent does not exist")
    for folder in (own, project):
        if folder.is_dir():
            return folder
    _make_cache()
    return fetch_coco8(own if _can_create_in(own.parent) else project)


def _shapes(name: str) -> Path:
    """Where the shapes are, rendering them if they are nowhere: never into the user's own folder."""
    own, project = datasets_dir() / name, DOWNLOADS / "datasets" / name
    for folder in (own, project):
        if folder.is_dir():
            return folder
    _make_cache()
    return render_shapes(project)


def _make_cache() -> None:
    """The folder for datasets, which a user's cache may lack; who writes there says why it cannot be."""
    with suppress(OSError):
        (DOWNLOADS / "datasets").mkdir(parents=True, exist_ok=True)


def _folder_name(data: DataYaml) -> str:
    """The key `path` of a built-in dataset: one folder name, so that nothing is written elsewhere."""
    name = data.path
    if name in (".", "..") or Path(name).name != name or "\\" in name:
        raise UserError(
            f"{display_path(data.file)}: path is {name!r}; beside 'source' it must be one folder name"
        )
    return name


def _can_create_in(folder: Path) -> bool:
    """Whether a folder can be made inside `folder`, which itself may have to be made first."""
    return os.access(folder if folder.exists() else folder.parent, os.W_OK | os.X_OK)


def _yaml_files(folder: Path) -> list[Path]:
    """The YAML files directly inside a folder, sorted; none if it cannot be listed."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    except (OSError, ValueError):
        return []
