"""The file that a checkpoint is: tensors and plain data only, whole or not there at all."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detector.errors import UserError
from detector.runtime.checkpoint_check import check_archive, check_state, check_stored, without_constructors
from detector.runtime.files import atomic_write, check_regular

FORMAT = 2
READABLE = 1, FORMAT

# What the compact detector's layers were called in format 1. `module.` precedes the averaged weights.
RENAMED = (
    (re.compile(r"^(module\.)?trunk\."), r"\1backbone."),
    (re.compile(r"^((?:module\.)?backbone\.p\d_\d+)\.a\."), r"\1.conv1."),
    (re.compile(r"^((?:module\.)?backbone\.p\d_\d+)\.b\."), r"\1.conv2."),
)


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write atomically: the previous checkpoint is there until this one is whole.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_write(path) as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None  # torch has its own word for a full disk
            raise


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint; no code in it is ever run.

    Raises:
        UserError: it is missing, broken, or not one of this project's.
    """
    state = read_if_own(path)
    if state is None:
        raise UserError(f"{path}: not a checkpoint of this project (format {FORMAT} expected)")
    return state


def read_if_own(path: Path) -> dict[str, Any] | None:
    """As `read`, but None for a file that somebody else's program wrote.

    Raises:
        UserError: it is missing or broken.
    """
    try:
        check_regular(path)
        check_archive(path)
    except FileNotFoundError:
        what = "there is no checkpoint here" if path.suffix == ".pt" else "there is no such file or directory"
        raise UserError(f"{path}: {what}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not a readable checkpoint: {reason}") from error
    try:
        with without_constructors():
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):  # intact, but it wants code to be run
            return None
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    except Exception as error:  # whatever unpickling damaged bytes stumbles over: a dozen kinds
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or type(state.get("format")) is not int or state["format"] not in READABLE:
        return None
    try:
        check_stored(state, path.stat().st_size)
        check_state(state)
    except ValueError as error:
        raise UserError(f"{path}: the checkpoint is damaged: {error}") from None
    return migrate(state)


def migrate(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of an earlier format as one of today's; today's is returned as it is.

    Only the names of weights changed. The optimizer's state goes by position, and the order is the same.
    """
    if state["format"] == FORMAT:
        return dict(state)
    tensors = {
        key: {_rename(name): tensor for name, tensor in state[key].items()}
        for key in ("model", "ema")
        if state.get(key) is not None
    }
    if origin := (state.get("failure") or {}).get("culprit"):  # the layer in which a step was not finite
        tensors["failure"] = {**state["failure"], "culprit": origin | {"layer": _rename(origin["layer"])}}
    return {**state, **tensors, "format": FORMAT}


def _rename(name: str) -> str:
    for pattern, today in RENAMED:
        name = pattern.sub(today, name)
    return name


def evaluated_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that the run was evaluated with: the average where it kept one."""
    if state.get("ema") is None:
        return dict(state["model"])
    prefix = "module."  # of torch's AveragedModel, which also counts its updates
    return {key.removeprefix(prefix): value for key, value in state["ema"].items() if key.startswith(prefix)}
