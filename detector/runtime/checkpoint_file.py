"""The file that a checkpoint is: tensors and plain data only, whole or not there at all."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detector.errors import UserError
from detector.runtime.checkpoint_check import check_archive, check_state
from detector.runtime.files import check_regular, replacing

FORMAT = 1


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write atomically: the previous checkpoint is there until this one is whole.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as file:
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
        raise UserError(f"{path}: there is no checkpoint here") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not a readable checkpoint: {reason}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):  # intact, but it wants code to be run
            return None
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    except Exception as error:  # whatever unpickling damaged bytes stumbles over: a dozen kinds
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or type(state.get("format")) is not int or state["format"] != FORMAT:
        return None
    try:
        check_state(state)
    except ValueError as error:
        raise UserError(f"{path}: the checkpoint is damaged: {error}") from None
    return state


def evaluated_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that the run was evaluated with: the average where it kept one."""
    if state.get("ema") is None:
        return dict(state["model"])
    prefix = "module."  # of torch's AveragedModel, which also counts its updates
    return {key.removeprefix(prefix): value for key, value in state["ema"].items() if key.startswith(prefix)}
