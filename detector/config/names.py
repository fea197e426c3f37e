"""The names that a configuration may give to a part: this project's, PyTorch's, and those of a plugin.

Only names: what they stand for is a matter of the floors above, so that a configuration is read, and a typo
in it answered, without PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from detector.errors import shorten

# Every kind of part, and the names that this project has for it.
BUILT_IN: dict[str, tuple[str, ...]] = {
    "activation": (
        "silu", "relu", "leaky_relu", "tanh", "sigmoid", "identity", "tailored_relu", "tailored_tanh",
    ),
    "norm": ("batch", "group", "none", "weight"),
    "shortcut": ("residual", "none", "gated", "skipinit", "chain"),
    "init": ("he", "xavier", "lecun", "default", "naive", "orthogonal", "delta_orthogonal"),
    "block": ("basic", "fixup"),
    "model": ("compact",),
    "dataset": ("yolo",),
    "optimizer": ("sgd", "adamw"),
    "metric": ("mAP50-95", "mAP50"),
    "logger": (),
}  # fmt: skip
# PyTorch's own, by the names of their classes: of torch.nn the activations that need no argument and work on
# each number by itself, of torch.optim what trains a convolution.
TORCH: dict[str, tuple[str, ...]] = {
    "activation": (
        "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU",
        "LogSigmoid", "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus",
        "Softshrink", "Softsign", "Tanh", "Tanhshrink",
    ),
    "optimizer": (
        "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop",
        "Rprop", "SGD",
    ),
}  # fmt: skip
# Those of torch.optim that do not, and why.
UNSUITABLE = {
    "LBFGS": "it needs a closure that repeats the step's passes",
    "SparseAdam": "it takes sparse gradients only",
    "Muon": "it takes matrices only",
}
_EXAMPLE = {
    "activation": "an activation of torch.nn such as GELU",
    "optimizer": "an optimizer of torch.optim such as RAdam",
}

added: dict[str, list[str]] = {kind: [] for kind in BUILT_IN}  # by `detector.registry`


def known(kind: str) -> list[str]:
    """Every name that this kind of part has now."""
    return [*BUILT_IN[kind], *added[kind], *TORCH.get(kind, ())]


def plugin_needed(error: ValidationError, section: str = "", files: Iterable[str] = ()) -> str | None:
    """Of a stored configuration that was refused: what to add, if names that nobody knows here are in it.

    Args:
        error: what pydantic says.
        section: of the configuration, such as `model.`, if only that was checked.
        files: the names of those that it was made with, if they are known.

    Returns:
        Such as `needs a plugin that brings model.act=snake: add --plugin FILE.py`.
    """
    details = [
        d for d in error.errors(include_url=False, include_context=False) if d["type"] == "unknown_name"
    ]
    parts = [f"{section}{'.'.join(map(str, d['loc'][:2]))}={shorten(str(d['input']))}" for d in details]
    options = " ".join(f"--plugin {shorten(file)}" for file in files) or "--plugin FILE.py"
    return f"needs a plugin that brings {' and '.join(parts)}: add {options}" if parts else None


class NameOf:
    """Marks a text field whose value must be a known name of this kind when it is checked."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A string, then the check."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """What `detector.config.loading` words an error from; asked anew for each."""
        names = ", ".join([*BUILT_IN[self.kind], *added[self.kind]])
        own = f"one of {names}" if names else f"a {self.kind} that a plugin brings"
        words = ", or ".join([*([_EXAMPLE[self.kind]] if self.kind in _EXAMPLE else []), own])
        return {"type": "string", "enum": known(self.kind), "kind": self.kind, "description": words}

    def check(self, name: str) -> str:
        """Raise unless the name is known."""
        if name not in known(self.kind):
            raise PydanticCustomError("unknown_name", "unknown name")
        return name
