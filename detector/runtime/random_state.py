"""The state of every random generator: to seed, save and restore it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.utils.deterministic

from detector.runtime.checkpoint_check import RandomState


def random_state(device: torch.device) -> RandomState:
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


def restore_random_state(state: RandomState, device: torch.device) -> None:
    """Restore a state; that of a GPU only where there is one, then and now."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"][0], device)


@contextmanager
def preserve_random_state(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the state afterwards is the one before.

    For what is no part of the experiment, such as a library that draws a number when it is imported: a
    resumed run imports it at another point than one that was never interrupted.
    """
    before = random_state(device)
    try:
        yield
    finally:
        restore_random_state(before, device)


def seed_everything(seed: int) -> None:
    """Seed every generator, and ask for deterministic kernels: the same command gives the same history."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  for libraries that draw from it
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    torch.backends.cudnn.benchmark = False
    # A few CUDA kernels have no deterministic form: they warn instead of stopping the run. (What sets this
    # under its other name, use_deterministic_algorithms, also imports the compiler, which takes a second.)
    torch.set_deterministic_debug_mode("warn")
    # That would also fill every new tensor with NaN, to expose code that reads what it has not written: on a
    # CPU a tenth of a step's time. What is computed is the same.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
