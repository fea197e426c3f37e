"""The state of every random generator, and how to go back to it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """Tensors and plain data only, so that a checkpoint can hold it."""
    # numpy's global generator is not used here, but by libraries that augment.
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (
            str(name),
            np.asarray(keys).tolist(),
            *(x if isinstance(x, float) else int(x) for x in rest),
        ),
        "torch": torch.get_rng_state(),
        # This process's GPU alone: the others are other processes', which draw the same.
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Go back to a state; that of a GPU only where there is one, then and now."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"][0], device)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the state afterwards is the one before.

    For what is no part of the experiment, such as a library that draws a number when it is imported: a run
    that goes on imports it at another point than one that was never interrupted.
    """
    before = random_state(device)
    try:
        yield
    finally:
        restore_random_state(before, device)
