"""Finding and reading what `model.pretrained` names, without running any code in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from detector.config import safe_yaml
from detector.data.download import download
from detector.errors import UserError, shorten
from detector.rundir.finding import checkpoint_at
from detector.runtime.checkpoint_check import check_archive, check_stored, without_constructors
from detector.runtime.files import DOWNLOADS, PROJECT, check_regular
from detector.runtime.ultralytics_import import import_ultralytics, safe_tasks

WEIGHTS = DOWNLOADS / "weights"  # git-ignored in a clone
RELEASE = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
LARGEST = 500_000_000  # bytes; yolo26x.pt has 120 MB

USUAL = "yolov8", "yolo11", "yolo26", "yolov5", "yolo12"

# A size letter in a network's name, such as the n of yolov8n or yolo26n-p2.
_SCALE = re.compile(r"^(yolov?\d+)([nslmx])(-.*)?$")


@dataclass(frozen=True)
class Pretrained:
    """A network of ultralytics with trained weights."""

    net: nn.Module  # float32, on the CPU
    description: Mapping[str, Any]  # as in their YAML files
    names: tuple[str, ...]  # of its classes
    image_size: int  # it was trained at, pixels
    version: str  # of the ultralytics that wrote it


def find(name: str) -> Path:
    """A file or a run by its path, relative to the working directory or the project; else a download.

    Raises:
        UserError: there is no such file, and ultralytics publishes none of this name, or it is not available.
    """
    written = os.path.expanduser(name)
    for candidate in (Path(written).absolute(), PROJECT / written, WEIGHTS / written):
        if os.path.isfile(candidate):  # unlike Path.is_file, no error for an overlong name
            return candidate
        if os.path.isdir(candidate):
            return checkpoint_at(candidate)
    official = import_ultralytics("utils.downloads").GITHUB_ASSETS_NAMES
    if name not in official:
        raise UserError(
            f"model.pretrained={name}: there is no such file, and ultralytics publishes none of that name"
        )
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    url = f"{RELEASE}/{name}"
    try:
        download(url, WEIGHTS / name, largest=LARGEST)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.pretrained={name}: is not here and could not be downloaded from {url}: {error}; "
            f"put the file into {WEIGHTS} or give its path; without one: --config configs/from_scratch.yaml"
        ) from error
    return WEIGHTS / name


def read_description(name: str) -> dict[str, Any]:
    """A network's YAML: a file of the user's, or one that comes with ultralytics, such as `yolov8n.yaml`.

    The letter after the version is the size (`scale`), as in ultralytics.

    Raises:
        UserError: there is no such file, or it does not describe a network.
    """
    sized = _SCALE.match(Path(name).stem)
    scale = sized[2] if sized else ""
    common = Path(name).with_name(f"{sized[1]}{sized[3] or ''}{Path(name).suffix}") if sized else Path(name)
    models = _their_models()
    own = [Path(name).expanduser(), PROJECT / name, common.expanduser()]
    folders = sorted(folder for folder in models.iterdir() if folder.is_dir())
    theirs = [folder / wanted for wanted in (Path(name).name, common.name) for folder in folders]
    file = next((path for path in (*own, *theirs) if os.path.isfile(path)), None)
    if file is None:
        raise UserError(f"model.pretrained={name}: there is no such file here or in ultralytics")
    value = safe_yaml.read(file, str(file)).plain()
    if not isinstance(value, dict) or not {"nc", "backbone", "head"} <= value.keys():
        raise UserError(f"{file}: expected the keys nc, backbone and head; this does not describe a network")
    if scale and scale not in (value.get("scales") or {}):
        raise UserError(f"model.pretrained={name}: {file.name} has no size {scale!r}")
    return value | {"scale": scale}


def is_usual(description: Mapping[str, Any]) -> bool:
    """Whether its layers, sizes aside, are those of a network that most people train."""
    rows = {key: description.get(key) for key in ("backbone", "head")}
    usual = ({key: value[key] for key in rows} for name in USUAL for value in _described(name))
    return description.get("activation") is None and any(rows == theirs for theirs in usual)


def comes_with_ultralytics(description: Mapping[str, Any]) -> bool:
    """Whether it is in one of ultralytics' files, but for the number of classes and the size chosen."""
    chosen = {"nc", "scale"}
    wanted = {key: value for key, value in description.items() if key not in chosen}
    return any(
        wanted == {key: value for key, value in theirs.items() if key not in chosen}
        for theirs in _described("*")
    )


@cache
def _described(name: str) -> list[dict[str, Any]]:
    files = sorted(_their_models().glob(f"*/{name}.yaml"))
    plain = (safe_yaml.read(file, str(file)).plain() for file in files)
    return [value for value in plain if isinstance(value, dict)]


def _their_models() -> Path:
    return Path(str(import_ultralytics("cfg").__file__)).parent / "models"


def read_weights(path: Path) -> Pretrained:
    """Read an ultralytics checkpoint. Only known classes of layers are made of it; nothing else is run.

    Raises:
        UserError: it is damaged, or not a detection checkpoint.
    """
    with safe_tasks() as tasks:
        try:
            check_regular(path)
            check_archive(path)
            with without_constructors():
                saved, _ = tasks.torch_safe_load(str(path), safe_only=True)
            net = saved.get("ema") or saved["model"]
            check_stored(net, path.stat().st_size)
            names = net.names
            description = dict(net.yaml)
            net = net.float()
        except Exception as error:  # their loader raises what unpickling stumbles over: many kinds
            kind, reason = type(error).__name__, " ".join(str(error).split())[:200]
            raise UserError(f"{path}: not a readable checkpoint of ultralytics ({kind}: {reason})") from error
    labels = tuple(str(name) for name in (names.values() if isinstance(names, Mapping) else names))
    size = (saved.get("train_args") or {}).get("imgsz", 640)
    # The description keeps its own `nc`: the widths of the head's hidden layers follow from it.
    version = str(saved.get("version") or "an unknown version")
    return Pretrained(net, description, labels, size if isinstance(size, int) else 640, shorten(version))
