"""The last lines of a run: where its pictures are, and what to do with it."""

from __future__ import annotations

import shlex
from contextlib import suppress

from detector.config.loading import LoadedConfig
from detector.errors import UserError, display_path
from detector.models.weights import find
from detector.registry import with_plugins
from detector.rundir import RunDir
from detector.training.counterpart import counterpart

BUILT_IN = "coco8", "shapes"  # datasets on which the ablations are measured


def pointers(files: RunDir, loaded: LoadedConfig, dataset: str, rest: str = "") -> list[str]:
    """A line with the plots, and one with the next commands.

    Args:
        files: of the run.
        loaded: its configuration.
        dataset: its name.
        rest: the command for what is left of a run that was stopped.
    """
    config, run = loaded.config, shlex.quote(str(files))
    lines = [f"Plots: {files.plots}, gradient_depth.png first"] if config.tracking.plots else []
    if rest:
        return [*lines, f"Next: {rest}"]
    if dataset in BUILT_IN and config.model.pretrained is None:
        other, compare = counterpart(loaded), f"detector compare {run} runs/…"
        return [*lines, f"Next: {other}, then {compare}" if other else f"Next: {compare}"]
    commands = [with_plugins(f"detector {command}") for command in (f"val {run}", f"predict {run} PHOTOS")]
    pretrained = config.model.pretrained or ""
    if pretrained and not pretrained.endswith((".yaml", ".yml")):
        with suppress(UserError):  # of a resumed run it may be gone
            before = shlex.quote(display_path(find(pretrained)))
            commands.append(f"what it forgot: detector val {run} --data OLD.yaml --before {before}")
    return [*lines, f"Next: {'; '.join(commands)}"]
