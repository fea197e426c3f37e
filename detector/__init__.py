"""A compact YOLO-style detector whose gradients can be watched, layer by layer.

>>> from detector import fit, load_config
>>> short = ["data.image_size=64", "train.steps=4", "run.dir=runs/no_residual"]
>>> run = fit(load_config("no_residual", short))
>>> run.summary["ablation"], run.summary["steps"]
('no_residual', 4)

What is listed in `__all__` is the public API. Each name is imported when it is first used, so that
`import detector` is instant.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.config.loading import load_config
    from detector.fit import fit
    from detector.gradients.recorder import GradientRecorder
    from detector.integrations.watch import watch
    from detector.models.build import build_model
    from detector.models.detector import Detector
    from detector.models.strip import strip
    from detector.predictor import Predictor
    from detector.registry import register
    from detector.rundir.finding import load_run
    from detector.tools.compare.command import compare
    from detector.training.callbacks import Callback

__version__ = "0.1.0"
__all__ = ["Callback", "Detector", "GradientRecorder", "Predictor", "build_model", "compare", "fit",
           "load_config", "load_run", "register", "strip", "watch"]  # fmt: skip
_MODULES = {
    "Callback": "training.callbacks",
    "Detector": "models.detector",
    "GradientRecorder": "gradients.recorder",
    "Predictor": "predictor",
    "build_model": "models.build",
    "compare": "tools.compare.command",
    "load_config": "config.loading",
    "load_run": "rundir.finding",
    "register": "registry",
    "strip": "models.strip",
    "watch": "integrations.watch",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`detector.fit` is the function. The module of that name, which the import system would set, is not."""

    @property
    def fit(self) -> Any:
        return importlib.import_module("detector.fit").fit

    @fit.setter
    def fit(self, module: ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Package
