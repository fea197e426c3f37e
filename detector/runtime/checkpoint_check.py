"""What a stranger's checkpoint may hold, looked at before any of it is used.

`torch.load(weights_only=True)` runs no code, but it says nothing about sizes and types: a few bytes can
unpack to gigabytes, claim a tensor of a trillion numbers, or put text where a number belongs.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MOST_STEPS = 10**12
_RUN_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")  # W&B makes it part of a folder's name


def check_archive(path: Path) -> None:
    """Raise ValueError if a zip file, such as torch writes, unpacks to more than it has bytes.

    torch stores its records uncompressed, so only a bomb, or entries that overlap, add up to more.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, EOFError):
        return  # of the older format, or damaged: torch's own reader says so
    if unpacked > path.stat().st_size:
        raise ValueError("it unpacks to more than its own size")


def check_state(state: Mapping[str, Any]) -> None:
    """Raise ValueError if something in a checkpoint of ours has not the type or size that it must have."""
    for key in ("model", "ema"):
        tensors = state.get(key)
        if key == "ema" and tensors is None:
            continue
        if not isinstance(tensors, Mapping) or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
        ):
            raise ValueError(f"its {key!r} is not a mapping of names to tensors")
    step, seconds, best = state.get("step"), state.get("seconds", 0.0), state.get("best", ())
    if type(step) is not int or not 0 <= step < MOST_STEPS:
        raise ValueError("its 'step' is not a count of steps")
    if not _is_number(seconds) or not isinstance(best, list | tuple) or not all(map(_is_number, best)):
        raise ValueError("its 'seconds' or 'best' are not numbers")
    if "extra" in state:
        _check_extra(state["extra"])
    _check_tensors(state)


def _check_extra(extra: object) -> None:
    if not isinstance(extra, Mapping):
        raise ValueError("its 'extra' is not a mapping")
    if any(isinstance(value, Tensor) for value in _everything(extra)):
        raise ValueError("its 'extra' holds a tensor")
    names, run_id = extra.get("names", []), extra.get("wandb_id", "none")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError("its 'names' are not a list of class names")
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id) or run_id.strip(".") == "":
        raise ValueError("its 'wandb_id' is not the id of a run")


def _check_tensors(state: object) -> None:
    """Every tensor is an ordinary one with all of its numbers in the file."""
    for value in _everything(state):
        if isinstance(value, Tensor):
            stored = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not stored or value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError("it claims a tensor whose numbers are not in it")


def _everything(root: object) -> Iterator[object]:
    """What nested containers hold."""
    waiting, seen = [root], set()
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))  # a container may hold itself, or another a thousand times
            waiting += value.values() if isinstance(value, Mapping) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
