"""What mean-field theory expects of a run's gradients at initialisation, where that is implemented."""

from __future__ import annotations

import numpy as np
from pydantic import ValidationError

from detector.config.experiment import WATCHED
from detector.config.schema import ModelConfig
from detector.tools.compare.history import Array
from detector.tools.compare.runs import Run


def expected(run: Run) -> Array | None:
    """log10 of the expected activation-gradient norm of each layer, at the run's first step.

    Returns:
        One value a layer; None where the theory does not cover the model, or step 0 was not recorded.
    """
    curves = run.curves
    if not curves.steps or curves.steps[0] != 0 or WATCHED in run.config:
        return None
    section = {key.removeprefix("model."): v for key, v in run.config.items() if key.startswith("model.")}
    try:
        from detector.analysis.trunk_theory import overlay

        model = ModelConfig(**section)
    except (ImportError, ValidationError):  # the configuration is another version's
        return None
    measured = dict(zip(curves.layers, curves.profiles["activation_grad"][0].tolist(), strict=True))
    found = overlay(model, measured)
    if found is None or set(found) != set(curves.layers):
        return None
    norms = np.array([found[name] for name in curves.layers], np.float64)
    return np.log10(norms) if (np.isfinite(norms) & (norms > 0)).all() else None
